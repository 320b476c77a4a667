"""Reports whose counters stay JSON until those of a whole batch are converted at once.

A report has 62 numbers per exit. To make a Python integer of each takes longer than everything else that is done with
the report. So the counters are only checked for their form, which is that in which every agent writes them, and then
NumPy reads the numbers of all reports together. Counters in another form, e.g. with spaces, are decoded one by one.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np

from edgeexit.errors import MessageError
from edgeexit.latency import BIN_COUNT
from edgeexit.policies.document import Digest, Name, Revision
from edgeexit.wire import MAX_BYTES, MAX_EXITS, SCORE_BINS, ExitCounters, Losses
from edgeexit.wire.counter_array import PER_EXIT, Counts, counts_of_exits
from edgeexit.wire.messages import Count, StartId, Uptime
from edgeexit_calibration.ingest.contradictions import contradictions

_MIN_EXITS: Final = 2
_DIGITS: Final = b"0123456789"
_ONLY_DIGITS: Final = bytes(byte if byte in _DIGITS else ord(" ") for byte in range(256))
"""Translation that leaves the numbers of a JSON text, between spaces."""


class ReportHead(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a `Report`, with the counters of its exits as JSON."""

    start: StartId
    sequence: Count
    bundle: str
    cohort: str
    revision: Revision
    uptime_s: Uptime
    exits: msgspec.Raw
    failed: Count = 0
    losses: Losses = Losses()
    skipped: Count = 0


class _CohortNames(msgspec.Struct, frozen=True):
    bundle: Digest
    cohort: Name


_NAMES: Final = (b'"reached":', b'"exited":', b'"scores":', b'"latency":')
_HEADS: Final = msgspec.json.Decoder(ReportHead)
_EXITS: Final = msgspec.json.Decoder(
    Annotated[tuple[ExitCounters, ...], msgspec.Meta(min_length=_MIN_EXITS, max_length=MAX_EXITS)]
)


def decode_head(payload: bytes) -> ReportHead:
    """Decode a report, without its counters. Raises MessageError."""
    if len(payload) > MAX_BYTES:
        raise MessageError(f"Report of {len(payload)} bytes is larger than the maximum of {MAX_BYTES} bytes")
    try:
        head = _HEADS.decode(payload)
        _check_names(head.bundle, head.cohort)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MessageError(f"Report: {error}") from error
    return head


@lru_cache(maxsize=1000)
def _check_names(bundle: str, cohort: str) -> None:
    """Raise ValidationError unless a cohort can have these names.

    Thousands of reports have the same ones, and their patterns take as long as the rest of a head. Valid names are
    remembered; they are short.
    """
    msgspec.convert({"bundle": bundle, "cohort": cohort}, _CohortNames)


class CountedReports(NamedTuple):
    """The counters of the reports of a batch, and why some have none; both by the places of the reports."""

    counts: dict[int, Counts]
    reasons: dict[int, str]


def count_reports(heads: Sequence[ReportHead]) -> CountedReports:
    """Convert the counters of reports; those that are invalid, or that contradict themselves, have a reason instead."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    counted = CountedReports({}, {})
    texts = [bytes(head.exits) for head in heads]
    unusual: list[int] = []
    for place, text in enumerate(texts):
        exits = _FORMS.get(text.translate(None, _DIGITS))
        (unusual if exits is None else groups[exits]).append(place)
    for exits, members in groups.items():
        places, joined = members, b" ".join([texts[place] for place in members])
        if not _has_names(joined, exits * len(members)):
            places = [place for place in members if _has_names(texts[place], exits)]
            unusual += sorted(set(members).difference(places))
            joined = b" ".join([texts[place] for place in places])
            if not places:
                continue
        matrix = np.empty((len(places), PER_EXIT * exits + 1), np.int64)
        numbers = np.fromstring(joined.translate(_ONLY_DIGITS), np.int64, sep=" ")
        matrix[:, :-1] = numbers.reshape(len(places), PER_EXIT * exits)
        matrix[:, -1] = [heads[place].failed for place in places]
        _add(counted, places, matrix)
    for place in unusual:
        _add_unusual(counted, place, texts[place], heads[place].failed)
    return counted


def _add_unusual(counted: CountedReports, place: int, text: bytes, failed: int) -> None:
    """Convert counters that are not in the form in which agents write them."""
    try:
        _add(counted, [place], counts_of_exits(_EXITS.decode(text), failed)[np.newaxis])
    except (msgspec.DecodeError, RecursionError) as error:
        counted.reasons[place] = f"Report: {error} - in `$.exits`"


def _has_names(text: bytes, count: int) -> bool:
    """Return True if each name stands so often in counters that have the usual form without their digits.

    Then no digit stands in a name. It is asked for all reports of a batch at once.
    """
    return all(text.count(name) == count for name in _NAMES)


def _add(counted: CountedReports, places: Sequence[int], matrix: Counts) -> None:
    for place, counts, reason in zip(places, matrix, contradictions(matrix), strict=True):
        if reason is None:
            counted.counts[place] = counts
        else:
            counted.reasons[place] = reason


def _form(exits: int) -> bytes:
    """Return the JSON of the counters of so many exits as an agent writes it, without the digits."""
    scores, latency = b"," * (SCORE_BINS - 1), b"," * (BIN_COUNT - 1)
    one = b'{"reached":,"exited":,"scores":[' + scores + b'],"latency":[' + latency + b"]}"
    return b"[" + b",".join([one] * exits) + b"]"


_FORMS: Final = {_form(exits): exits for exits in range(_MIN_EXITS, MAX_EXITS + 1)}
"""Form -> number of exits. In valid JSON digits stand in numbers, of which each has at least one, and in texts."""
