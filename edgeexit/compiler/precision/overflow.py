"""Finds the nodes whose values exceed float16's range on samples, by running the model in float32.

A run in float16 on a CPU would not show overflows: ONNX Runtime computes float16 in float32 there, so a value that
overflows on a GPU stays finite.
"""

import tempfile
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.graph import add_initializer
from edgeexit.compiler.precision.fp32_nodes import is_float32
from edgeexit.compiler.precision.masks import NEAR_FP16_MAX, MaskNumbers
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.datasets import Inputs
from edgeexit.progress import NO_PROGRESS, Progress

_MAX_SAMPLES: Final = 64
_MAX_BATCH_BYTES: Final = 4 << 20
_MAX_BATCH: Final = 16
_EXAMPLES: Final = 3
"""Number of node names in the warning."""


def overflowing_nodes(
    model: ir.Model,
    samples: Inputs,
    *,
    expected: AbstractSet[ir.Node],
    folder: Path,
    progress: Progress = NO_PROGRESS,
) -> set[ir.Node]:
    """Return the nodes that produce or read a value near or beyond float16's limit on the first 64 samples.

    Infinity and NaN do not count, because float16 has them, too. Values that may be large only because of a number that
    stands for infinity, as in a mask, are not checked, nor are values in subgraphs. A warning names up to three nodes
    that are not in `expected`, and counts the others. Temporary files are written to `folder`. Raises CompileError if
    the model cannot be run on the samples.
    """
    masked = MaskNumbers(model).values
    values = {
        str(value.name): value
        for node in model.graph
        for value in node.outputs
        if value.name and is_float32(value) and value not in masked
    }
    largest = _largest(model, values, samples, folder)
    found = {values[name]: size for name, size in largest.items() if size > NEAR_FP16_MAX}
    nodes: dict[ir.Node, float] = {}
    for value, size in found.items():
        for node in (value.producer(), *value.consumers()):
            if node is not None:
                nodes[node] = max(size, nodes.get(node, 0.0))
    unexpected = [f"'{node.name}' ({size:.3g})" for node, size in nodes.items() if node not in expected]
    if unexpected:
        more = f" and {len(unexpected) - _EXAMPLES} more" if len(unexpected) > _EXAMPLES else ""
        progress.warning(
            "nodes kept in fp32, because their values on the samples are near or beyond float16's limit: "
            f"{', '.join(unexpected[:_EXAMPLES])}{more}"
        )
    return set(nodes)


def _largest(model: ir.Model, names: Collection[str], samples: Inputs, folder: Path) -> dict[str, float]:
    """Return name -> largest finite absolute number on the samples, for the named values of the main graph."""
    probe = model.clone()
    graph = probe.graph
    constants = {
        "zero": np.zeros(1, np.float32),
        "flat": np.array([-1]),
        "max": np.array(np.finfo(np.float32).max),
    }
    zero, flat, maximum = (
        add_initializer(graph, ir.Tensor(array, name=f"overflow.{name}")) for name, array in constants.items()
    )
    wanted = {str(value.name): value for node in graph for value in node.outputs if value.name in names}
    graph.outputs.clear()
    for number, value in enumerate(wanted.values()):
        flattened = ir.node("Reshape", [value, flat])
        magnitudes = ir.node("Abs", flattened.outputs)
        finite = ir.node("LessOrEqual", [magnitudes.outputs[0], maximum])  # False for NaN
        counted = ir.node("Where", [finite.outputs[0], magnitudes.outputs[0], zero])
        never_empty = ir.node("Concat", [counted.outputs[0], zero], {"axis": 0})
        largest = ir.node("ReduceMax", never_empty.outputs, {"keepdims": 0})
        for node in (flattened, magnitudes, finite, counted, never_empty, largest):
            node.outputs[0].name = node.name = f"overflow.{number}.{node.op_type}"
            graph.append(node)
        largest.outputs[0].type, largest.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        graph.outputs.append(largest.outputs[0])
    outputs = [str(value.name) for value in graph.outputs]
    with tempfile.TemporaryDirectory(dir=folder, prefix="overflow.") as scratch:
        path = Path(scratch) / "probe.onnx"
        ir.save(probe, path, external_data="probe.data")
        session = ReferenceSession(path, what="the model")
        sizes = np.max([np.array(session.run(batch, outputs)) for batch in _batches(samples)], axis=0)
    return dict(zip(wanted, map(float, sizes), strict=True))


def _batches(samples: Inputs) -> Iterator[Inputs]:
    count = min(_MAX_SAMPLES, *(len(array) for array in samples.values()))
    sample_bytes = sum(array[0].nbytes for array in samples.values())
    size = min(_MAX_BATCH, max(1, _MAX_BATCH_BYTES // max(1, sample_bytes)))
    for first in range(0, count, size):
        yield {name: array[first : min(first + size, count)] for name, array in samples.items()}
