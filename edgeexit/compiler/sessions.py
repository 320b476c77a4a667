"""ONNX Runtime sessions on the build machine: to look at values inside a graph, and to prove a split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common as passes

from edgeexit.compiler.reasons import reason_of
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_FATAL_ONLY = 4


class Session:
    """A graph file, opened in ONNX Runtime on the processor.

    Args:
        path: the graph.
        what: how errors name it.

    Raises CompileError when ONNX Runtime refuses it.

    """

    def __init__(self, path: Path, *, what: str) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY  # what it complains of comes as an exception too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._what = what
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
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
    probe = model.clone()
    wanted = set(names)
    values = {str(value.name): value for node in probe.graph for value in node.outputs if value.name in wanted}
    values |= {str(value.name): value for value in probe.graph.inputs if value.name in wanted}
    made = [name for name in names if values[name].producer() is not None]
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(values[name] for name in made)
    passes.RemoveUnusedNodesPass()(probe)
    path = folder / "probe.onnx"
    ir.save(probe, path)
    try:
        session = Session(path, what="the model")
        results = []
        for feed in feeds:
            arrays = dict(zip(made, session.run(feed, made), strict=True))
            arrays |= {name: feed[name] for name in names if name not in arrays}
            results.append(
                {name: (a.dtype.name, tuple(a.shape)) for name, a in arrays.items() if isinstance(a, np.ndarray)}
            )
        return results
    finally:
        path.unlink()
