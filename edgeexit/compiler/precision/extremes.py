"""Finds out how large the numbers inside a graph become on samples: what float16 cannot hold has to be seen in float32.

ONNX Runtime computes float16 in float32 on processors, so that a value which overflows on a GPU stays finite there.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.precision.widths import HALF_MOST, beyond_half, is_float
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.datasets import Inputs

_MAX_SAMPLES: Final = 64
_GROUP_BYTES: Final = 4 << 20
_GROUP: Final = 16
_NEAR: Final = HALF_MOST / 2
"""Other samples may go twice as far."""
_NAMED: Final = 3
_BLENDS: Final = {  # through which a number that stands for infinity goes on as one
    "Add", "Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Max", "Min", "Mul", "Reshape",
    "Slice", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


def overflowing_nodes(
    model: ir.Model,
    samples: Inputs,
    *,
    kept: AbstractSet[ir.Node],
    folder: Path,
    on_warning: Callable[[str], None] = lambda _: None,
) -> set[ir.Node]:
    """Return the nodes that make, or read, what comes near the end of float16's range on the first 64 samples.

    Values that a mask's number for infinity makes large are left out, and so are those inside of bodies. `on_warning` is
    told of nodes that are not among `kept`. Raises CompileError where the model does not run.
    """
    endless = _endless(model.graph)
    values = {
        str(value.name): value
        for node in model.graph
        for value in node.outputs
        if value.name and is_float(value) and value not in endless
    }
    found = {values[name]: size for name, size in _largest(model, values, samples, folder).items() if not size <= _NEAR}
    nodes: dict[ir.Node, float] = {}
    for value, size in found.items():
        for node in (value.producer(), *value.consumers()):
            if node is not None:
                nodes[node] = max(size, nodes.get(node, 0.0))
    told = [f"'{node.name}' ({size:.3g})" for node, size in nodes.items() if node not in kept]
    if told:
        more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        on_warning(
            f"near or beyond float16's range on the samples, and so kept in fp32: {', '.join(told[:_NAMED])}{more}"
        )
    return set(nodes)


def _largest(model: ir.Model, names: Collection[str], samples: Inputs, folder: Path) -> dict[str, float]:
    """Return the largest magnitude on the samples of each value of the main graph that `names` names."""
    probe = model.clone()
    graph = probe.graph
    zero, flat = (
        ir.Value(name=f"extremes.{name}", type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        for name, tensor in (("zero", ir.Tensor(np.zeros(1, np.float32))), ("flat", ir.Tensor(np.array([-1]))))
    )
    graph.register_initializer(zero)
    graph.register_initializer(flat)
    wanted = {str(value.name): value for node in graph for value in node.outputs if value.name in names}
    graph.outputs.clear()
    for number, value in enumerate(wanted.values()):
        row = ir.node("Reshape", [value, flat])
        magnitudes = ir.node("Abs", row.outputs)
        never_empty = ir.node("Concat", [magnitudes.outputs[0], zero], {"axis": 0})
        most = ir.node("ReduceMax", never_empty.outputs, {"keepdims": 0})
        for node in (row, magnitudes, never_empty, most):
            node.outputs[0].name = node.name = f"extremes.{number}.{node.op_type}"
            graph.append(node)
        most.outputs[0].type, most.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        graph.outputs.append(most.outputs[0])
    outputs = [str(value.name) for value in graph.outputs]
    with tempfile.TemporaryDirectory(dir=folder, prefix="extremes.") as scratch:
        path = Path(scratch) / "probe.onnx"
        ir.save(probe, path, external_data="probe.data")
        session = ReferenceSession(path, what="the model")
        sizes = np.max([np.array(session.run(group, outputs)) for group in _groups(samples)], axis=0)
    return dict(zip(wanted, map(float, sizes), strict=True))


def _groups(samples: Inputs) -> Iterator[Inputs]:
    count = min(_MAX_SAMPLES, *(len(array) for array in samples.values()))
    sample_bytes = sum(array[0].nbytes for array in samples.values())
    size = min(_GROUP, max(1, _GROUP_BYTES // max(1, sample_bytes)))
    for first in range(0, count, size):
        yield {name: array[first : min(first + size, count)] for name, array in samples.items()}


def _endless(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that a number which stands for infinity may make as large as it is."""
    endless: set[ir.Value] = set()
    for node in graph:
        tensors = [value.const_value for value in node.inputs if value is not None and value.is_initializer()]
        tensors += [a.as_tensor() for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR]
        stands = any(beyond is not None and not np.isnan(beyond) for beyond in map(beyond_half, tensors))
        if node.op_type in _BLENDS and (stands or any(value in endless for value in node.inputs)):
            endless |= set(node.outputs)
    return endless
