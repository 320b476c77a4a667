"""ONNX Runtime sessions on the build machine: to look at values inside a graph, and to prove a split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from edgeexit.backends.onnxruntime.backend import UNSAFE_OPTIMISERS
from edgeexit.compiler.extract import extract, needed_for
from edgeexit.compiler.reasons import reason_of
from edgeexit.compiler.weights import save_graph
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_FATAL_ONLY = 4


class ReferenceSession:
    """A graph file, opened in ONNX Runtime on the processor.

    Args:
        path: the graph.
        what: how errors name it.
        optimise: let ONNX Runtime rewrite the graph; without, every node runs as it stands, and so alike in any graph.

    Raises CompileError when ONNX Runtime refuses it.

    """

    def __init__(self, path: Path, *, what: str, optimise: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY  # what it complains of comes as an exception too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._what = what
        try:
            self._session = ort.InferenceSession(
                path, options, providers=["CPUExecutionProvider"], disabled_optimizers=UNSAFE_OPTIMISERS
            )
        except Exception as error:  # its classes have no common base
            raise CompileError(f"ONNX Runtime does not open {what}: {reason_of(error)}") from error
        self._inputs = {value.name for value in self._session.get_inputs()}

    def run(self, feeds: Inputs, outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Run on the feeds that the graph has inputs for. Raises CompileError."""
        needed = {name: array for name, array in feeds.items() if name in self._inputs}
        try:
            results: list[npt.NDArray[Any]] = self._session.run(list(outputs), needed)
        except Exception as error:  # its classes have no common base
            shapes = ", ".join(f"'{name}' {'x'.join(map(str, array.shape))}" for name, array in needed.items())
            raise CompileError(f"{self._what} does not run on {shapes}: {reason_of(error)}") from error
        return results


def shapes_inside(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Inputs], *, folder: Path
) -> list[dict[str, tuple[str, tuple[int, ...]]]]:
    """Run a graph on each of `feeds` and return the dtype and shape of the values `names`; sequences are left out.

    A scratch file stands in `folder` meanwhile, beside the weights. Raises CompileError.
    """
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    made = [values[name] for name in names if name in values]
    given = [name for name in names if name not in values]
    results = [{name: (feed[name].dtype.name, feed[name].shape) for name in given} for feed in feeds]
    if not made:
        return results
    nodes = needed_for(model.graph, made)
    probe = extract(model, nodes, inputs=model.graph.inputs, outputs=made, name="probe")
    path = folder / "probe.onnx"
    try:
        save_graph(probe, path)
        session = ReferenceSession(path, what="the model")
        for feed, result in zip(feeds, results, strict=True):
            arrays = session.run(feed, [str(value.name) for value in made])
            found = zip(made, arrays, strict=True)
            result |= {str(v.name): (a.dtype.name, a.shape) for v, a in found if isinstance(a, np.ndarray)}
    finally:
        path.unlink(missing_ok=True)
    return results
