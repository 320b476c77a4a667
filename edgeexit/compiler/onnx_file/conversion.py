"""Describes what was changed in the user's ONNX file before the split, and proves that its exits stayed the same."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.exits.run import MAX_BATCH, MAX_BATCH_BYTES
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.onnx_file.free_batch import FreedBatch
from edgeexit.compiler.onnx_file.upgrade_opset import MIN_OPSET
from edgeexit.compiler.onnx_file.widen import ReplacedFloats
from edgeexit.compiler.samples import in_batches, repeat_to
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_TOLERANCES: Final = {None: 1e-4, "float64": 1e-3, "bfloat16": 0.1}
"""Type of floats that was replaced -> tolerance, absolute and relative, of each logit. A bfloat16 has 8 bits."""
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
    floats: ReplacedFloats | None = None
    """The floats that were replaced by float32."""

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
            changed.append(f"{self.floats.type} (as '{self.floats.tensor}') to float32")
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


class UserFile:
    """The user's ONNX file, which runs on any number of samples, in chunks of its batch if that is fixed.

    Raises CompileError if it cannot be opened.
    """

    def __init__(self, path: Path, conversion: FileConversion) -> None:
        self._batch = None if conversion.batch is None else conversion.batch.size
        self._run: Callable[[Inputs, Sequence[str]], list[npt.NDArray[Any]]]
        self.is_slow = conversion.floats is not None and conversion.floats.type == "bfloat16"
        """The file runs in ONNX's reference evaluator, because ONNX Runtime does not support its types."""
        if not self.is_slow:
            try:
                self._run = ReferenceSession(path, what=f"'{path}'").run
            except CompileError:
                if conversion.floats is None:
                    raise
                self.is_slow = True
        if self.is_slow:
            self._run = _evaluator(path)

    def run(self, feeds: Inputs, outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Return the named outputs of all samples; the last chunk of a fixed batch is filled with repeated samples.

        Raises CompileError if the graph does not run, or if an output does not have one row per sample.
        """
        if self._batch is None:
            return self._run(feeds, outputs)
        count = len(next(iter(feeds.values())))
        chunks = []
        for some in in_batches(feeds, size=self._batch):
            chunks.append(self._run(repeat_to(some, self._batch), outputs))
            for name, array in zip(outputs, chunks[-1], strict=True):
                if array.ndim == 0 or len(array) != self._batch:
                    shape = "x".join(map(str, array.shape)) or "a scalar"
                    raise CompileError(
                        f"exit '{name}' is {shape} for the file's fixed batch of {self._batch}; the first dimension of "
                        "an exit must be the batch"
                    )
        return [np.concatenate(parts)[:count] for parts in zip(*chunks, strict=True)]


def _evaluator(path: Path) -> Callable[[Inputs, Sequence[str]], list[npt.NDArray[Any]]]:
    """Return a function that runs a graph file in ONNX's reference evaluator."""
    try:
        with silence_libraries():
            evaluator = ReferenceEvaluator(str(path))
        types = {
            value.name: ir.DataType(value.type.tensor_type.elem_type).numpy() for value in evaluator.proto_.graph.input
        }
    except Exception as error:  # onnx raises unrelated classes
        raise CompileError(f"'{path}' cannot be run to compare it with float32: {reason_of(error)}") from error

    def run(feeds: Inputs, outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        arrays = {name: array.astype(types[name], copy=False) for name, array in feeds.items() if name in types}
        try:
            with silence_libraries(), np.errstate(all="ignore"):
                results: Any = evaluator.run(list(outputs), arrays)
        except Exception as error:  # the evaluator raises unrelated classes
            raise CompileError(f"'{path}' cannot be run to compare it with float32: {reason_of(error)}") from error
        return list(results)

    return run


def prove_conversion(
    original: UserFile,
    open_converted: Callable[[], ReferenceSession],
    samples: Inputs,
    exits: Sequence[str],
    conversion: FileConversion,
) -> ReferenceSession:
    """Compare the converted graph with the user's file on batches of 1, 2, 3 and on all samples; return it, opened.

    A file that only the reference evaluator of ONNX can run is compared on batches of 1, 2 and 3 only. Raises
    CompileError, with advice for the export, if an exit differs or if the converted graph does not run.
    """
    tolerance = _TOLERANCES[None if conversion.floats is None else conversion.floats.type]
    with _advising(conversion):
        converted = open_converted()
    largest = MAX_BATCH
    batches = [repeat_to(samples, size) for size in _PROVEN_BATCHES]
    for number, batch in enumerate(batches):
        expected = original.run(batch, exits)
        if number == 0:
            largest = max(1, min(largest, MAX_BATCH_BYTES // max(1, sum(array.nbytes for array in expected))))
            batches += [] if original.is_slow else in_batches(samples, size=largest)
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
    """If the converted graph does not run, raise a CompileError with the reason and advice for the export."""
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
