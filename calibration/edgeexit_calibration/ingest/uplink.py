"""Reads the messages of devices: decodes them, verifies signatures, and finds the number of a message that is invalid.

Pure functions of topic and payload. The schemas of the messages bound every name and every text. A profile's schema is
also that of a file, so its texts are bounded here.
"""

import re
from collections.abc import Iterator
from math import log
from typing import Any, Final, NamedTuple

import msgspec

from edgeexit.errors import MessageError
from edgeexit.latency import LatencyProfile
from edgeexit.log_text import one_line
from edgeexit.wire import MAX_EXITS, UP_TYPES, Audit, DeviceAddress, Refusal, State, decode, parse_up_topic
from edgeexit.wire.audit_parts import NUMBER_LIMIT
from edgeexit.wire.audit_signing import verify_audit
from edgeexit.wire.counter_array import Counts
from edgeexit.wire.messages import Count, StartId
from edgeexit_calibration.ingest.report_head import ReportHead, decode_head

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MIN_EXITS: Final = 2
_CLASS_LIMIT: Final = 2**24
"""Readouts are float32, which represents class indices exactly below this limit."""
_MAX_ENTROPY: Final = log(_CLASS_LIMIT)
_MAX_PROFILE_TEXT: Final = 1000
_MAX_PROFILE_TEXTS: Final = 4096


class Uplink(NamedTuple):
    """A valid message of a device, and the device's address."""

    address: DeviceAddress
    message: State | ReportHead | Audit | LatencyProfile
    key: str | None = None
    """The public key that signed an audit."""
    retained: bool = False
    """True if the broker stored the message for new subscribers, so that the device may have ended since."""
    counts: Counts | None = None
    """The counters of a report [62 K + 1], when they have been converted; see `report_head.count_reports`."""


class RefusedUplink(NamedTuple):
    """A message with a readable number that is not stored."""

    address: DeviceAddress
    start: str
    refusal: Refusal


class _Number(msgspec.Struct, frozen=True):
    """The number of a message; every other field may be missing or invalid."""

    start: StartId
    sequence: Count


class _Wrapped(msgspec.Struct, frozen=True):
    """A signed audit of which only the number matters."""

    audit: _Number


def read_uplink(
    topic: str,
    payload: bytes,
    *,
    retained: bool = False,
    parsed: tuple[DeviceAddress, str] | None = None,
) -> Uplink | RefusedUplink:
    """Return a decoded message, or the number and the reason of a report or an audit that is invalid.

    Args:
        topic: the topic.
        payload: the payload.
        retained: whether the broker stored the message.
        parsed: the result of `parse_up_topic(topic)`, if it is known already.

    Raises MessageError for an invalid topic, and for an invalid message without a readable number.

    """
    address, kind = parsed or parse_up_topic(topic)
    try:
        return _decode(address, kind, topic, payload, retained)
    except MessageError as error:
        number = _number(kind, payload)
        if number is None:
            raise
        return RefusedUplink(address, number.start, Refusal(sequence=number.sequence, reason=one_line(str(error))))


def _decode(address: DeviceAddress, kind: str, topic: str, payload: bytes, retained: bool) -> Uplink:  # noqa: FBT001
    if kind == "report":
        return Uplink(address, decode_head(payload), None, retained)
    if kind == "audit":
        key, audit = verify_audit(payload, topic=topic)
        _check_audit(audit)
        return Uplink(address, audit, key, retained)
    expected: Any = UP_TYPES[kind]
    message: State | LatencyProfile = decode(payload, expected)
    if isinstance(message, LatencyProfile):
        _check_profile(message)
    return Uplink(address, message, None, retained)


def _number(kind: str, payload: bytes) -> _Number | None:
    """Return the number of an invalid message, or None if it has none or it is not readable."""
    if kind not in ("report", "audit"):
        return None
    try:
        if kind == "report":
            return msgspec.json.decode(payload, type=_Number)
        return msgspec.json.decode(payload, type=_Wrapped).audit
    except (msgspec.DecodeError, RecursionError):
        return None


def _check_audit(audit: Audit) -> None:
    if audit.sequence >= NUMBER_LIMIT:
        raise MessageError(f"audit: its number {audit.sequence} is not below 2^60, so its parts would have no numbers")
    exits = len(audit.samples[0].top1)
    if not _MIN_EXITS <= exits <= MAX_EXITS or any(len(sample.top1) != exits for sample in audit.samples):
        raise MessageError(f"audit: every sample needs the same number of exits, from {_MIN_EXITS} to {MAX_EXITS}")
    if len({sample.scores is None for sample in audit.samples}) > 1:
        raise MessageError("audit: either every sample has scores, or none has")
    if len({sample.differing is None for sample in audit.samples}) > 1:
        raise MessageError("audit: either every sample has the fractions of its map that differ, or none has")
    for sample in audit.samples:
        highest = max(*sample.top1, sample.prediction or 0, *(sample.predictions or ()))
        if highest >= _CLASS_LIMIT or max(sample.entropy) > _MAX_ENTROPY:
            raise MessageError(
                f"audit: class {highest} or entropy {max(sample.entropy):g} is too large for a readout in float32"
            )


def _check_profile(profile: LatencyProfile) -> None:
    if not _DIGEST.fullmatch(profile.bundle):
        raise MessageError(f"profile: bundle '{profile.bundle[:80]}' is not a digest of 64 hex digits")
    for count, text in enumerate(_texts(msgspec.to_builtins(profile)), start=1):
        if len(text) > _MAX_PROFILE_TEXT or count > _MAX_PROFILE_TEXTS:
            raise MessageError(
                f"profile: text {count} has {len(text)} characters; at most {_MAX_PROFILE_TEXTS} texts of "
                f"{_MAX_PROFILE_TEXT} characters are allowed"
            )


def _texts(value: object) -> Iterator[str]:
    """Yield every text in plain data, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(name)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
