"""Reports whose counters stay JSON until those of a whole batch are converted at once.

A report has 62 numbers per exit. To make a Python integer of each takes longer than everything else that is done with
the report. So the counters are only checked for their form, which is that in which every agent writes them, and then
NumPy reads the numbers of all reports together. Counters in another form, e.g. with spaces, are decoded one by one.
"""

from collections import defaultdict
from collections.abc import Sequence
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
    bundle: Digest
    cohort: Name
    revision: Revision
    uptime_s: Uptime
    exits: msgspec.Raw
    failed: Count = 0
    losses: Losses = Losses()
    skipped: Count = 0


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
        return _HEADS.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MessageError(f"Report: {error}") from error


class CountedReports(NamedTuple):
    """The counters of the reports of a batch, and why some have none; both by the places of the reports."""

    counts: dict[int, Counts]
    reasons: dict[int, str]


def count_reports(heads: Sequence[ReportHead]) -> CountedReports:
    """Convert the counters of reports; those that are invalid, or that contradict themselves, have a reason instead."""
    groups: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
    counted = CountedReports({}, {})
    for place, head in enumerate(heads):
        text = bytes(head.exits)
        exits = _FORMS.get(text.translate(None, _DIGITS))
        if exits is not None and all(text.count(name) == exits for name in _NAMES):  # no digit stands in a name
            groups[exits].append((place, text))
        else:
            try:
                _add(counted, [place], counts_of_exits(_EXITS.decode(text), head.failed)[np.newaxis])
            except (msgspec.DecodeError, RecursionError) as error:
                counted.reasons[place] = f"Report: {error} - in `$.exits`"
    for exits, members in groups.items():
        places = [place for place, _ in members]
        matrix = np.empty((len(places), PER_EXIT * exits + 1), np.int64)
        texts = b" ".join([text for _, text in members]).translate(_ONLY_DIGITS)
        matrix[:, :-1] = np.fromstring(texts, np.int64, sep=" ").reshape(len(places), -1)
        matrix[:, -1] = [heads[place].failed for place in places]
        _add(counted, places, matrix)
    return counted


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
