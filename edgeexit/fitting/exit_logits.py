"""The recorded logits of all exits, and their readouts under any temperatures, computed in blocks of samples."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from edgeexit.policies.readout import COLUMNS, ENTROPY, P1, P2, TOP1, Array, ExitReadout

_Indices = npt.NDArray[np.int64]

_COLUMNS: Final = len(COLUMNS)
BLOCK: Final = 2**18
"""Number of logits in a block: small enough for the caches of a processor, large enough for few calls."""
_MIN_CACHE_BYTES: Final = 2**25
_LOWEST: Final = np.float32(-1000)
"""A logit this far below the highest one has a probability of 0; minus infinity times 0 would be NaN."""


class ReadExit(Protocol):
    """Computes the readout of an exit from logits, to the bit as the stages of a bundle do."""

    def __call__(self, exit_index: int, logits: Array, temperature: float) -> ExitReadout:
        """Return the readout for `logits` [n, C] float32. A row does not depend on the other rows."""


class ExitLogits:
    """Logits [M, K, C] float32 of M samples at K exits.

    Readouts that were computed once for an exit and a temperature are kept, because every kind of policy reads them
    again. They take at most as much memory as a quarter of the logits, or 32 MiB.
    """

    def __init__(self, logits: Array, read: ReadExit | None = None) -> None:
        """Use `read` to compute readouts. Without it, numpy does, which differs from a stage by rounding errors."""
        self.array = logits
        self._read = read_in_numpy if read is None else read
        self._cache: OrderedDict[tuple[int, float], Array] = OrderedDict()
        self._max_bytes = max(logits.nbytes // 4, _MIN_CACHE_BYTES)

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.array.shape[2])

    def readouts(self, exit_index: int, temperature: float) -> Array:
        """Return the readouts [M, 4] of an exit. Do not write to the array."""
        key = exit_index, temperature
        found = self._cache.get(key)
        if found is None:
            found = np.empty((len(self.array), _COLUMNS), dtype=np.float32)
            for part, logits in self.blocks(exit_index):
                found[part] = self._read(exit_index, logits, temperature).readout
            self._cache[key] = found
            self._drop_oldest()
        self._cache.move_to_end(key)
        return found

    def probabilities(self, exit_index: int, temperature: float, rows: _Indices | None = None) -> Iterator[Array]:
        """Yield the probabilities [n, C] of an exit block by block, for all samples or for `rows`."""
        for _, logits in self.blocks(exit_index, rows):
            yield self._read(exit_index, logits, temperature).probabilities

    def wide_readouts(self, temperatures: tuple[float, ...], rows: _Indices | None = None) -> Iterator[Array]:
        """Yield the readouts [n, K, 4 + C] of all exits block by block, for all samples or for `rows`."""
        exits = len(temperatures)
        for part in self._parts(rows, max(BLOCK // (exits * self.classes), 1)):
            wide = np.empty((part.stop - part.start, exits, _COLUMNS + self.classes), dtype=np.float32)
            for k, temperature in enumerate(temperatures):
                wide[:, k, :_COLUMNS], wide[:, k, _COLUMNS:] = self._read(k, self._gathered(k, part, rows), temperature)
            yield wide

    def blocks(self, exit_index: int, rows: _Indices | None = None) -> Iterator[tuple[slice, Array]]:
        """Yield the place of each block, and its logits [n, C] at an exit: of all samples, or of `rows`."""
        for part in self._parts(rows, max(BLOCK // self.classes, 1)):
            yield part, self._gathered(exit_index, part, rows)

    def _parts(self, rows: _Indices | None, size: int) -> Iterator[slice]:
        total = len(self.array) if rows is None else len(rows)
        for start in range(0, total, size):
            yield slice(start, min(start + size, total))

    def _gathered(self, exit_index: int, part: slice, rows: _Indices | None) -> Array:
        if rows is None:
            return np.ascontiguousarray(self.array[part, exit_index])
        return np.asarray(self.array[rows[part], exit_index])

    def _drop_oldest(self) -> None:
        while len(self._cache) > 1 and sum(each.nbytes for each in self._cache.values()) > self._max_bytes:
            self._cache.popitem(last=False)


def read_in_numpy(exit_index: int, logits: Array, temperature: float) -> ExitReadout:  # noqa: ARG001 - see `ReadExit`
    """Return the readout of logits [n, C], as `ReadExit` does."""
    scaled = logits / np.float32(temperature)
    top = scaled.argmax(axis=1)
    scaled -= scaled.max(axis=1, keepdims=True)
    np.maximum(scaled, _LOWEST, out=scaled)
    probabilities = np.exp(scaled)
    total = probabilities.sum(axis=1, dtype=np.float64)
    rows = np.arange(len(top))
    readout = np.empty((len(top), len(COLUMNS)), dtype=np.float32)
    readout[:, TOP1], readout[:, P1] = top, 1 / total
    readout[:, ENTROPY] = np.log(total) - np.einsum("nc,nc->n", probabilities, scaled) / total
    probabilities[rows, top] = 0
    readout[:, P2] = probabilities.max(axis=1) / total
    probabilities[rows, top] = 1
    probabilities /= total[:, None].astype(np.float32)
    return ExitReadout(readout, probabilities)
