"""The counters of many reports at once, as one matrix of integers: one row per report, columns as in `counts`."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeexit.wire.counter_array import PER_EXIT, Counts, width_of
from edgeexit_calibration.store.counts import MAX_SUM, pack_counts, unpack_counts

_SAFE: Final = 2**40
"""A batch of counts below this number cannot overflow."""
_HEADER: Final = 2
_PAIR_BYTES: Final = 6
"""Bytes of an index and a value in a packed array with values of 4 bytes."""
_NARROW: Final = 4

Matrix = npt.NDArray[np.int64]
"""[N, 62 K + 1] int64."""


def pack_rows(matrix: Matrix) -> list[bytes]:
    """Return each row packed, as `pack_counts` does."""
    rows, columns = matrix.nonzero()
    values = matrix[rows, columns]
    if len(values) and values.max() >> 32:
        return [pack_counts(row) for row in matrix]
    ends = np.cumsum(np.bincount(rows, minlength=len(matrix))).tolist()
    indices, numbers = columns.astype("<u2").tobytes(), values.astype("<u4").tobytes()
    header = bytes((matrix.shape[1] // PER_EXIT, _NARROW))
    return [
        header + indices[2 * begin : 2 * end] + numbers[4 * begin : 4 * end]
        for begin, end in zip((0, *ends), ends, strict=False)
    ]


def unpack_rows(packed: Sequence[bytes | None], exits: int) -> Matrix:
    """Return packed rows as a matrix for `exits` exits; None is a row of zeros.

    A row of more exits loses the further ones, and a row of fewer exits has zeros there.
    """
    matrix: Matrix = np.zeros((len(packed), width_of(exits)), np.int64)
    header = bytes((exits, _NARROW))
    rows: list[int] = []
    lengths: list[int] = []
    indices: list[bytes] = []
    values: list[bytes] = []
    for row, content in enumerate(packed):
        if content is None:
            continue
        if content.startswith(header):
            count = (len(content) - _HEADER) // _PAIR_BYTES
            middle = _HEADER + 2 * count
            rows.append(row)
            lengths.append(count)
            indices.append(content[_HEADER:middle])
            values.append(content[middle:])
        else:
            matrix[row] = _resized(unpack_counts(content), exits)
    where = np.repeat(rows, lengths) if rows else np.zeros(0, np.int64)
    matrix[where, np.frombuffer(b"".join(indices), "<u2")] = np.frombuffer(b"".join(values), "<u4")
    return matrix


def sum_groups(matrix: Matrix, groups: Sequence[int], count: int) -> Matrix:
    """Return the sum of the rows of each group [count, 62 K + 1], at most `MAX_SUM`.

    Args:
        matrix: non-negative counts.
        groups: the group of each row; groups are numbered in the order of their first rows.
        count: number of groups.

    """
    if count == len(matrix):
        return np.minimum(matrix, MAX_SUM)
    exact = len(matrix) == 0 or matrix.max() < _SAFE
    if count == 1:
        starts, ordered = np.zeros(1, np.int64), matrix
    else:
        index = np.asarray(groups)
        order = np.argsort(index, kind="stable")
        starts, ordered = np.searchsorted(index[order], np.arange(count)), matrix[order]
    sums: Matrix = np.add.reduceat(ordered, starts, axis=0)
    if exact:
        return sums
    about = np.add.reduceat(ordered.astype(np.float64), starts, axis=0)
    return np.where(about >= MAX_SUM, MAX_SUM, sums)


def add_to_packed(packed: Sequence[bytes | None], increments: Matrix) -> list[bytes]:
    """Return packed rows with a row of increments added to each, at most `MAX_SUM`; None is a row of zeros."""
    exits = increments.shape[1] // PER_EXIT
    sums = pack_rows(np.minimum(unpack_rows(packed, exits) + increments, MAX_SUM))
    for row, content in enumerate(packed):
        if content is not None and content[0] > exits:  # devices of a cohort that nobody registered disagree
            wide = unpack_counts(content)
            sums[row] = pack_counts(np.minimum(wide + _resized(increments[row], content[0]), MAX_SUM))
    return sums


def _resized(counts: Counts, exits: int) -> Counts:
    """Return an array for another number of exits; the last number, of failed inferences, stays the last one."""
    resized: Counts = np.zeros(width_of(exits), np.int64)
    shared = min(len(counts), len(resized)) - 1
    resized[:shared] = counts[:shared]
    resized[-1] = counts[-1]
    return resized
