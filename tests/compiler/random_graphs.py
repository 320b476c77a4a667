"""Random multi-exit ONNX models of many operators, and inputs for them."""

from contextlib import suppress
from math import prod
from random import Random

import numpy as np
import onnx
from onnx import helper

from tests.compiler.graph_builder import BATCH, LENGTH, B, F, Graph, I, Value, num
from tests.compiler.random_folds import FOLDS
from tests.compiler.random_operators import STEPS, branch, loop, out, quantised


def _head(g: Graph, value: Value, name: str) -> None:
    """Add a classifier head on a value with one row per sample."""
    if value.dtype != F:
        (value,) = g.add("Cast", [value.name], (F, value.shape), to=F)
    axis = value.batch_axis
    assert axis is not None
    if axis:
        perm = [axis, *(a for a in range(value.rank) if a != axis)]
        (value,) = g.add("Transpose", [value.name], (F, [value.shape[a] for a in perm]), perm=perm)
    for axis in reversed(range(1, value.rank)):
        if not value.fixed(axis):
            reads = [value.name, g.constant([axis], np.int64)]
            (value,) = g.add("ReduceMean", reads, (F, out(value, axis, None)), keepdims=0)
    size = prod(dim[0] for dim in value.shape[1:])
    if value.rank != 2:
        (value,) = g.add("Reshape", [value.name, g.constant([-1, size], np.int64)], (F, [BATCH, num(size)]))
    (value,) = g.add("Tanh", [value.name], (F, value.shape))
    g.nodes.append(helper.make_node("MatMul", [value.name, g.weight(size, 3)], [name]))


def random_model(rng: Random, *, steps: int) -> onnx.ModelProto:
    """Return a model of about `steps` of `STEPS` with two to five exits `e0`, `e1`, ... of 3 classes."""
    g = Graph(rng)
    length = rng.choice([LENGTH, num(2), num(3), num(6)])
    shapes = [[num(2)], [num(3)], [num(8)], [length, num(4)], [num(2), length], [num(3), num(4), num(4)],
              [num(2), length, num(6)], [num(2), length, length]]  # fmt: skip
    first = Value("x", F, (BATCH, *rng.choice(shapes)))
    g.inputs.append(first)
    if rng.random() < 0.3:
        g.inputs.append(Value("ids", I, (BATCH, length)))
    if rng.random() < 0.3:
        g.inputs.append(Value("gate", B, (BATCH, length)))
    if rng.random() < 0.3:
        g.inputs.append(Value("y", F, rng.choice([first.shape, (BATCH, num(1)), (BATCH,)])))
    g.values += g.inputs
    g.data_dependent |= {value.name for value in g.inputs}
    g.names |= {value.name for value in g.inputs} | {f"e{index}" for index in range(5)}
    exits = rng.randint(2, 5)
    # ONNX Runtime 1.32 crashes if a subgraph captures a transposed dequantised value.
    excluded = rng.choice([{quantised}, {branch, loop}])
    choices = [step for step in (*STEPS, *FOLDS * rng.choice([0, 0, 1, 4])) if step not in excluded]
    found = 0
    for _ in range(exits):
        before = len(g.values)
        for _ in range(max(1, steps // exits)):
            with suppress(IndexError):  # no value fits
                rng.choice(choices)(g)
        fresh = [
            value for value in g.values[before:] if value.batch_axis is not None and value.name in g.data_dependent
        ]
        if fresh:
            _head(g, rng.choice(fresh[-3:]), f"e{found}")
            found += 1
    while found < 2:
        _head(g, first, f"e{found}")
        found += 1
    symbolic_dims = {BATCH: "N", LENGTH: "L"}
    inputs = [
        helper.make_tensor_value_info(v.name, v.dtype, [symbolic_dims.get(dim, dim[0]) for dim in v.shape])
        for v in g.inputs
    ]
    outputs = [helper.make_tensor_value_info(f"e{index}", F, ["N", 3]) for index in range(found)]
    block = [helper.make_node("Mul", ["a", "b"], ["c"]), helper.make_node("Tanh", ["c"], ["d"])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    function_ = helper.make_function("local", "Block", ["a", "b"], ["d"], block, opsets[:1])
    graph = helper.make_graph(g.nodes, "g", inputs, outputs, g.constants)
    return helper.make_model(graph, opset_imports=opsets, functions=[function_], ir_version=9)


def random_inputs(model: onnx.ModelProto, seed: int, batch: int, length: int) -> dict[str, np.ndarray]:
    """Draw inputs for a model; `batch` and `length` are the sizes of its dimensions N and L."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        sizes = {"N": batch, "L": length}
        shape = [sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims]
        kind = value.type.tensor_type.elem_type
        drawn = rng.standard_normal(shape).astype(np.float32)
        feeds[value.name] = {F: drawn, I: np.abs(drawn * 3).astype(np.int64), B: drawn > 0}[kind]
    return feeds
