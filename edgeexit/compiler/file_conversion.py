"""Describes what was changed in the user's ONNX file before the split, and proves that its exits stayed the same."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.compiler.exit_outputs import MAX_BATCH, MAX_BATCH_BYTES, in_batches
from edgeexit.compiler.export.free_batch import FreedBatch
from edgeexit.compiler.export.inputs import repeat_to
from edgeexit.compiler.export.upgrade_opset import MIN_OPSET
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_TOLERANCE: Final = 1e-4
"""Absolute and relative, of each logit: the original and the converted graph run on the same kernels."""
_NARROWED_TOLERANCE: Final = 1e-3
"""The same if the original computes in float64."""
_PROVEN_BATCHES: Final = (1, 2, 3)
_FAILED_NODES: Final = (
    re.compile(r"running (?P<op>\S+) node\. Name:'(?P<name>[^']*)'"),
    re.compile(r"Node \((?P<name>[^)]*)\) Op \((?P<op>[^)]*)\)"),
)
"""How ONNX Runtime names a node that fails, when it runs and when it is loaded."""


class FileConversion(NamedTuple):
    """What was changed in the user's ONNX file."""

    opset: int | None = None
    """The old operator set that was upgraded."""
    batch: FreedBatch | None = None
    """The fixed batch that was made dynamic."""
    floats: str | None = None
    """The type of floats that was replaced by float32."""

    @property
    def is_empty(self) -> bool:
        """True if nothing was changed."""
        return self == FileConversion()

    def changes(self) -> str:
        """Return what was changed, as in 'opset 11 to 13 and the fixed batch of 1 to a dynamic one'."""
        changed = []
        if self.opset is not None:
            changed.append(f"opset {self.opset} to {MIN_OPSET}")
        if self.batch is not None:
            changed.append(f"the fixed batch of {self.batch.size} to a dynamic one")
        if self.floats is not None:
            changed.append(f"{self.floats} to float32")
        return " and ".join(changed)

    def advice(self) -> str:
        """Return how to export a model that needs no conversion."""
        wanted = []
        if self.batch is not None:
            wanted.append("a dynamic first dimension (dynamic_shapes, or dynamic_axes in old exporters)")
        if self.opset is not None:
            wanted.append(f"opset {MIN_OPSET} or newer")
        if self.floats is not None:
            wanted.append("float32 weights (model.float())")
        return f"export the model with {' and '.join(wanted)}"


class FixedBatchSession(ReferenceSession):
    """A graph file with a fixed batch of `batch` samples, which runs any number of samples in chunks of this size."""

    def __init__(self, path: Path, *, what: str, batch: int) -> None:
        super().__init__(path, what=what)
        self._batch = batch

    def run(self, feeds: Inputs, outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Return the named outputs of all samples; the last chunk is filled with repeated samples.

        Raises CompileError if the graph does not run, or if an output does not have one row per sample.
        """
        count = len(next(iter(feeds.values())))
        chunks = []
        for some in in_batches(feeds, size=self._batch):
            chunks.append(super().run(repeat_to(some, self._batch), outputs))
            for name, array in zip(outputs, chunks[-1], strict=True):
                if array.ndim == 0 or len(array) != self._batch:
                    shape = "x".join(map(str, array.shape)) or "a scalar"
                    raise CompileError(f"exit '{name}' is {shape} for the file's fixed batch of {self._batch}")
        return [np.concatenate(parts)[:count] for parts in zip(*chunks, strict=True)]


def open_original(path: Path, conversion: FileConversion) -> ReferenceSession:
    """Open the user's ONNX file. Raises CompileError if ONNX Runtime cannot open it."""
    if conversion.batch is None:
        return ReferenceSession(path, what=f"'{path}'")
    return FixedBatchSession(path, what=f"'{path}'", batch=conversion.batch.size)


def prove_conversion(
    original: ReferenceSession,
    open_converted: Callable[[], ReferenceSession],
    samples: Inputs,
    exits: Sequence[str],
    conversion: FileConversion,
) -> ReferenceSession:
    """Compare the converted graph with the user's file on batches of 1, 2, 3 and on all samples; return it, opened.

    Raises CompileError, which says how to export the model, if an exit differs or if the converted graph does not run.
    """
    tolerance = _TOLERANCE if conversion.floats is None else _NARROWED_TOLERANCE
    with _advising(conversion):
        converted = open_converted()
    largest = MAX_BATCH
    batches = [repeat_to(samples, size) for size in _PROVEN_BATCHES]
    for number, batch in enumerate(batches):
        expected = original.run(batch, exits)
        if number == 0:
            largest = max(1, min(largest, MAX_BATCH_BYTES // max(1, sum(array.nbytes for array in expected))))
            batches += in_batches(samples, size=largest)
        with _advising(conversion):
            found = converted.run(batch, exits)
        for name, wanted, array in zip(exits, expected, found, strict=True):
            change = _change(name, array, wanted, tolerance)
            if change is not None:
                raise CompileError(
                    f"converting {conversion.changes()} changes {change} on a batch of "
                    f"{len(next(iter(batch.values())))}{_hint(conversion)}; {conversion.advice()}"
                )
    return converted


@contextmanager
def _advising(conversion: FileConversion) -> Iterator[None]:
    """If the converted graph does not run, raise a CompileError that says why and how to export the model."""
    try:
        yield
    except CompileError as error:
        failed = next((match for pattern in _FAILED_NODES if (match := pattern.search(str(error)))), None)
        if conversion.batch is None:
            raise CompileError(f"converting {conversion.changes()} fails: {error}; {conversion.advice()}") from error
        hint = f", which {failed['op']} '{failed['name']}' needs" if failed else _hint(conversion)
        raise CompileError(
            f"the model has a fixed batch of {conversion.batch.size}{hint}; {conversion.advice()}"
        ) from error


def _hint(conversion: FileConversion) -> str:
    stuck = None if conversion.batch is None else conversion.batch.stuck
    return f", because {stuck} mixes the batch with other dimensions" if stuck else ""


def _change(name: str, found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> str | None:
    """Describe the difference between two results of exit `name`, or return None if it is within the tolerance."""
    if found.shape != expected.shape:
        before, after = ("x".join(map(str, array.shape)) for array in (expected, found))
        return f"exit '{name}' from {before} to {after}"
    wanted = expected.astype(np.float32)
    if np.allclose(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    return f"exit '{name}' by up to {np.nanmax(np.abs(found - wanted)):.3g}"
