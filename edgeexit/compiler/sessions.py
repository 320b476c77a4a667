"""Runs graphs in ONNX Runtime on the build machine: for the proof, and to find the shapes of values in a graph."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from edgeexit.backends.onnxruntime.sessions import UNSAFE_OPTIMISERS
from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.extract import extract, nodes_needed_for
from edgeexit.compiler.graph import all_values
from edgeexit.compiler.weights import save_graph
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_FATAL_ONLY = 4


class ReferenceSession:
    """A graph file, opened in ONNX Runtime on the CPU.

    Args:
        path: the graph file.
        what: name of the graph in error messages.
        optimise: let ONNX Runtime optimise the graph. Without optimisation every node runs as written, so the same node
            gives the same result in any graph.

    Raises CompileError if ONNX Runtime cannot open the graph.

    """

    def __init__(self, path: Path, *, what: str, optimise: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY  # ONNX Runtime also raises errors as exceptions
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._what = what
        try:
            self._session = ort.InferenceSession(
                path, options, providers=["CPUExecutionProvider"], disabled_optimizers=UNSAFE_OPTIMISERS
            )
        except Exception as error:  # ONNX Runtime's classes have no common base
            reason = reason_of(error, without=f"Load model from {path} failed:")
            raise CompileError(f"ONNX Runtime cannot open {what}: {reason.rstrip('.')}{_advice(path)}") from error
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._conversions: Mapping[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {}

    def convert_outputs(self, conversions: Mapping[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]) -> None:
        """From now on, return each named output converted by its function."""
        self._conversions = conversions

    def run(self, feeds: Inputs, outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Return the named outputs; feeds that are not inputs of the graph are ignored.

        Raises CompileError if the graph does not run.
        """
        needed = {name: array for name, array in feeds.items() if name in self._inputs}
        try:
            results: list[npt.NDArray[Any]] = self._session.run(list(outputs), needed)
        except Exception as error:  # ONNX Runtime's classes have no common base
            shapes = ", ".join(f"'{name}' {'x'.join(map(str, array.shape))}" for name, array in needed.items())
            raise CompileError(f"{self._what} does not run on {shapes}: {reason_of(error)}") from error
        for index, name in enumerate(outputs):
            if name in self._conversions:
                results[index] = self._conversions[name](results[index])
        return results


def probe_shapes(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Inputs], *, folder: Path
) -> list[dict[str, tuple[str, tuple[int, ...]]]]:
    """Run a graph on each of `feeds` and return name -> (dtype, shape) of the named values, except sequences.

    Writes a temporary file to `folder`, which must hold the weights. Raises CompileError if the graph does not run.
    """
    return [
        {name: (array.dtype.name, array.shape) for name, array in values.items()}
        for values in _probe(model, names, feeds, folder)
    ]


def probe_values(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Inputs], *, folder: Path
) -> list[dict[str, npt.NDArray[Any]]]:
    """Run a graph on each of `feeds` and return name -> array of the named values, except sequences.

    Writes a temporary file to `folder`, which must hold the weights. Raises CompileError if the graph does not run.
    """
    return list(_probe(model, names, feeds, folder))


def _probe(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Inputs], folder: Path
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield name -> array of the named values, for one feed at a time."""
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    computed = [values[name] for name in names if name in values]
    given = [name for name in names if name not in values]
    if not computed:
        yield from ({name: feed[name] for name in given} for feed in feeds)
        return
    nodes = nodes_needed_for(model.graph, computed)
    probe = extract(model, nodes, inputs=model.graph.inputs, outputs=computed, name="probe")
    path = folder / "probe.onnx"
    try:
        save_graph(probe, path)
        session = ReferenceSession(path, what="the model")
    finally:
        path.unlink(missing_ok=True)
    for feed in feeds:
        arrays = session.run(feed, [str(value.name) for value in computed])
        found = zip(computed, arrays, strict=True)
        yield {name: feed[name] for name in given} | {
            str(value.name): array for value, array in found if isinstance(array, np.ndarray)
        }


def _advice(path: Path) -> str:
    """Return what to do about a graph with values in bfloat16, which ONNX Runtime's CPU operators do not take."""
    try:
        values = all_values(ir.load(path).graph)
    except Exception:  # noqa: BLE001 - protobuf and onnx_ir raise unrelated classes; the caller reports its own error
        return ""
    name = next((value.name for value in values if value.dtype is ir.DataType.BFLOAT16), None)
    if name is None:
        return ""
    return (
        f"; '{name}' is bfloat16: remove torch.autocast and casts to bfloat16 from the model (--precision fp16 "
        "computes in float16)"
    )
