"""Splits an audit that is too large to send into two halves, which have the same numbers whenever they are made."""

from typing import Final

import msgspec

from edgeexit.wire import Audit

_FIRST: Final = 2**50
_NODES: Final = 512
"""Places in the binary tree of halves: at most 256 samples, the root has place 1, place n has halves 2n and 2n + 1."""


def split_audit(audit: Audit) -> tuple[Audit, Audit]:
    """Return the halves of an audit of at least two samples, with the same start and new sequence numbers.

    The numbers depend on the audit only, so the halves are the same messages if a device splits it again, for example
    after its outbox was restored from an older copy. Below 2^50, no audit has the number of a half.
    """
    half = (len(audit.samples) + 1) // 2
    number, place = divmod(audit.sequence - _FIRST, _NODES) if audit.sequence >= _FIRST else (audit.sequence, 1)
    first, second = (
        msgspec.structs.replace(audit, sequence=_FIRST + number * _NODES + 2 * place + right, samples=samples)
        for right, samples in enumerate((audit.samples[:half], audit.samples[half:]))
    )
    return first, second
