"""Splits an audit that is too large for a broker; the parts have the same numbers whenever they are made."""

from typing import Final

import msgspec

from edgeexit.wire.messages import Audit

_FIRST: Final = 2**50
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


def containing_audits(sequence: int) -> tuple[int, ...]:
    """Return the sequence numbers of the audits of the same start that contain this part; none if it is no part.

    A part of an audit that is stored already is a duplicate: the device split the audit because it saw no PUBACK.
    """
    number, place = _origin(sequence)
    numbers = []
    while place > 1:
        place //= 2
        numbers.append(_FIRST + number * _PLACES + place if place > 1 else number)
    return tuple(numbers)


def _origin(sequence: int) -> tuple[int, int]:
    """Return the number of the audit that was split, and the place of the part; place 1 for a whole audit."""
    return divmod(sequence - _FIRST, _PLACES) if sequence >= _FIRST else (sequence, 1)
