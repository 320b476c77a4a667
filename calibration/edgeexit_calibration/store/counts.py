"""The counters of a report (see `wire.counter_array`), packed for the database.

Most bins are empty, so the packed form contains only the others: one byte with the number of exits, one with the width
of a value in bytes (4 or 8), then the uint16 indices, then the values, little-endian.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from edgeexit.wire import Report
from edgeexit.wire.counter_array import PER_EXIT, Counts, counts_of_exits, width_of

MAX_SUM: Final = 2**62 - 1
"""Sums of counts stay at this number rather than overflow; two of them still fit into 64 bits."""
_HEADER: Final = 2
_INDEX_BYTES: Final = 2
_NARROW: Final = 4
_WIDE: Final = 8


def counts_of(report: Report) -> Counts:
    """Return the counters of a report [62 K + 1] int64."""
    return counts_of_exits(report.exits, report.failed)


def pack_counts(counts: Counts) -> bytes:
    """Return an array of non-negative counts [62 K + 1] as bytes."""
    (indices,) = counts.nonzero()
    values = counts[indices]
    width = _WIDE if len(values) and values.max() >> 32 else _NARROW
    header = bytes((len(counts) // PER_EXIT, width))
    return header + indices.astype("<u2").tobytes() + values.astype(f"<u{width}").tobytes()


def unpack_counts(packed: bytes) -> Counts:
    """Return the array [62 K + 1] int64 of packed counts; the inverse of `pack_counts`."""
    exits, width = packed[0], packed[1]
    count = (len(packed) - _HEADER) // (_INDEX_BYTES + width)
    indices = np.frombuffer(packed, "<u2", count, _HEADER)
    counts = np.zeros(width_of(exits), np.int64)
    counts[indices] = np.frombuffer(packed, f"<u{width}", count, _HEADER + count * _INDEX_BYTES)
    return counts


def difference(packed: bytes, base: bytes | None) -> bytes:
    """Return packed counts without those of an earlier time, of as many exits; None is zeros."""
    return packed if base is None else pack_counts(unpack_counts(packed) - unpack_counts(base))


def has_counts(packed: bytes) -> bool:
    """Return whether a number in packed counts is not 0."""
    return len(packed) > _HEADER


def empty_counts(packed: bytes) -> bytes:
    """Return packed counts of 0 for as many exits as others have."""
    return bytes((packed[0], _NARROW))


def sum_counts(parts: Sequence[bytes]) -> bytes:
    """Return the sum of packed counts, at most `MAX_SUM`; of several numbers of exits, for the highest one."""
    exits = max(part[0] for part in parts)
    total: Counts = np.zeros(width_of(exits), np.int64)
    for part in parts:
        counts = unpack_counts(part)
        total[: len(counts) - 1] += counts[:-1]
        total[-1] += counts[-1]  # failed inferences
        np.minimum(total, MAX_SUM, out=total)
    return pack_counts(total)
