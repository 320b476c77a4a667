"""Splits an audit that is too large for a broker; the parts have the same numbers whenever they are made."""

from collections.abc import Container
from typing import Final

import msgspec

from edgeexit.wire.messages import Audit

_FIRST: Final = 2**50
NUMBER_LIMIT: Final = 2**60
"""The numbers of all audits and parts are below it."""
_PLACES: Final = 512
"""Places in the binary tree of halves: at most 256 samples, the root has place 1, place n has halves 2n and 2n + 1."""


def split_audit(audit: Audit) -> tuple[Audit, Audit]:
    """Return the halves of an audit of at least two samples, with the same start and sequence numbers of their own.

    The numbers depend on the audit only, so the halves are the same messages if a device splits it again, for example
    after its outbox was restored from an older copy. Below 2^50, no audit has the number of a part.
    """
    half = (len(audit.samples) + 1) // 2
    number, place = _origin(audit.sequence)
    first, second = (
        msgspec.structs.replace(audit, sequence=_FIRST + number * _PLACES + 2 * place + right, samples=samples)
        for right, samples in enumerate((audit.samples[:half], audit.samples[half:]))
    )
    return first, second


def related_sequences(sequence: int) -> tuple[tuple[int, ...], range]:
    """Return the numbers of the audits that contain this one, and the range of those of its parts, and of others.

    A calibrator looks up these numbers of the same start, and passes those that it has stored to `missing_parts`.
    """
    number, place = _origin(sequence)
    parts = range(_FIRST + number * _PLACES + 2, _FIRST + (number + 1) * _PLACES)
    containing = []
    while place > 1:
        place //= 2
        containing.append(_FIRST + number * _PLACES + place if place > 1 else number)
    return tuple(containing), parts


def missing_parts(audit: Audit, stored: Container[int]) -> list[Audit]:
    """Return what of an audit is not stored: the audit itself, some of its parts, or nothing.

    A device can send an audit as a whole and then in parts, or the other way round: because it saw no PUBACK, or
    because its outbox was restored from an older copy. `stored` are the numbers that are stored of the same start.
    """
    containing, parts = related_sequences(audit.sequence)
    if audit.sequence in stored or any(number in stored for number in containing):
        return []
    if len(audit.samples) == 1 or not any(number in stored for number in parts):
        return [audit]
    first, second = split_audit(audit)
    return missing_parts(first, stored) + missing_parts(second, stored)


def _origin(sequence: int) -> tuple[int, int]:
    """Return the number of the audit that was split, and the place of the part; place 1 for a whole audit."""
    return divmod(sequence - _FIRST, _PLACES) if sequence >= _FIRST else (sequence, 1)
