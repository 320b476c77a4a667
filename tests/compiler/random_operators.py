"""Operators and idioms that a random graph is built from: each function adds a few nodes."""

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.compiler.graph_builder import B, Dim, F, Graph, I, Value, num


def out(value: Value, axis: int, dim: Dim | None) -> list[Dim]:
    """Return the shape of a value with another dimension at `axis`, or without it if `dim` is None."""
    shape = list(value.shape)
    shape[axis : axis + 1] = [] if dim is None else [dim]
    return shape


def broadcast(*shapes: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """Return the shape that results from broadcasting, or None if the shapes do not fit."""
    rank = max(map(len, shapes))
    padded = [(num(1),) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    result = []
    for dims in zip(*padded, strict=True):
        larger = {dim for dim in dims if dim != num(1)}
        if len(larger) > 1:
            return None
        result.append(larger.pop() if larger else num(1))
    return tuple(result)


def unary(g: Graph) -> None:
    v = g.pick()
    op = g.rng.choice(["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity", "Elu", "HardSwish", "Softplus", "Floor"])
    g.add(op, [v.name], (F, v.shape))


def identities(g: Graph) -> None:
    v = g.pick(dtype=None)
    for _ in range(g.rng.randint(1, 3)):
        (v,) = g.add("Identity", [v.name], (v.dtype, v.shape))


def softmax(g: Graph) -> None:
    v = g.pick(lambda v: bool(v.free_axes()))
    g.add(g.rng.choice(["Softmax", "LogSoftmax"]), [v.name], (F, v.shape), axis=g.rng.choice(v.free_axes()))


def binary(g: Graph) -> None:
    left = g.pick()
    right = g.pick(lambda v: broadcast(left.shape, v.shape) is not None)
    shape = broadcast(left.shape, right.shape)
    assert shape is not None
    if g.rng.random() < 0.2:
        (mask,) = g.add("Less", [left.name, right.name], (B, shape))
        other = g.pick(lambda v: broadcast(shape, v.shape) == shape)
        g.add("Where", [mask.name, other.name, left.name], (F, broadcast(shape, left.shape) or ()))
    else:
        g.add(g.rng.choice(["Add", "Mul", "Sub", "Max"]), [left.name, right.name], (F, shape))


def with_constant(g: Graph) -> None:
    v = g.pick()
    shape = [dim[0] if len(set(dim)) == 1 and g.rng.random() < 0.7 else 1 for dim in v.shape]
    g.add(g.rng.choice(["Add", "Mul"]), [v.name, g.weight(*shape)], (F, v.shape))


def clip(g: Graph) -> None:
    """Add a Clip, with or without a lower limit."""
    v = g.pick()
    low = g.rng.choice(["", g.constant(-1.0)])
    g.add("Clip", [v.name, low, g.constant(1.0)], (F, v.shape))


def matmul(g: Graph) -> None:
    v = g.pick(lambda v: v.rank >= 2 and v.fixed(-1))
    k = g.rng.choice([2, 3, 4, 8])
    (y,) = g.add("MatMul", [v.name, g.weight(v.shape[-1][0], k)], (F, [*v.shape[:-1], num(k)]))
    if g.rng.random() < 0.5:
        g.add("Add", [y.name, g.weight(k)], (F, y.shape))


def gemm(g: Graph) -> None:
    v = g.pick(lambda v: v.rank == 2 and v.fixed(1))
    k = g.rng.choice([2, 3, 4])
    g.add("Gemm", [v.name, g.weight(k, v.shape[1][0]), *g.rng.choice([[], [g.weight(k)]])],
          (F, [v.shape[0], num(k)]), transB=1)  # fmt: skip


def attention(g: Graph) -> None:
    v = g.pick(lambda v: v.rank == 3 and v.batch_axis == 0)
    a, n, d = v.shape
    (t,) = g.add("Transpose", [v.name], (F, [a, d, n]), perm=[0, 2, 1])
    (scores,) = g.add("MatMul", [v.name, t.name], (F, [a, n, n]))
    if g.rng.random() < 0.5:
        mask = g.pick(lambda m: broadcast(scores.shape, m.shape) == scores.shape, B)
        (scores,) = g.add("Where", [mask.name, scores.name, g.constant(-9.0)], (F, scores.shape))
    (fractions,) = g.add("Softmax", [scores.name], (F, scores.shape), axis=-1)
    g.add("MatMul", [fractions.name, v.name], (F, v.shape))


def conv(g: Graph) -> None:
    v = g.pick(lambda v: v.rank in {3, 4} and v.batch_axis == 0 and v.fixed(1))
    spatial = v.rank - 2
    k, stride = g.rng.choice([2, 3, 4]), g.rng.choice([1, 1, 2])
    dims = [tuple((size - 1) // stride + 1 for size in dim) for dim in v.shape[2:]]
    g.add("Conv", [v.name, g.weight(k, v.shape[1][0], *[3] * spatial), *g.rng.choice([[], [g.weight(k)]])],
          (F, [v.shape[0], num(k), *dims]), pads=[1] * 2 * spatial, strides=[stride] * spatial)  # fmt: skip


def pool(g: Graph) -> None:
    v = g.pick(lambda v: v.rank in {3, 4} and v.batch_axis == 0)
    spatial = v.rank - 2
    dims = [tuple((size + 1) // 2 for size in dim) for dim in v.shape[2:]]
    op = g.rng.choice(["MaxPool", "AveragePool", "GlobalAveragePool"])
    if op == "GlobalAveragePool":
        g.add(op, [v.name], (F, [*v.shape[:2], *[num(1)] * spatial]))
        return
    two = [2] * spatial
    g.add(op, [v.name], (F, [*v.shape[:2], *dims]), kernel_shape=two, strides=two, auto_pad="SAME_UPPER")


def concat(g: Graph) -> None:
    v = g.pick(lambda v: bool(v.free_axes()))
    axis = g.rng.choice(v.free_axes())
    others = [o for o in g.values if o.dtype == F and o.rank == v.rank and out(o, axis, None) == out(v, axis, None)]
    parts = [v, *(g.rng.choice(others) for _ in range(g.rng.randint(0, 2)))]
    total = tuple(map(sum, zip(*(part.shape[axis] for part in parts), strict=True)))
    g.add("Concat", [part.name for part in parts], (F, out(v, axis, total)), axis=axis)


def split(g: Graph) -> None:
    v = g.pick(lambda v: any(v.fixed(axis) and v.shape[axis][0] > 1 for axis in range(v.rank)))
    axis = g.rng.choice([axis for axis in range(v.rank) if v.fixed(axis) and v.shape[axis][0] > 1])
    first = g.rng.randint(1, v.shape[axis][0] - 1)
    parts = [first, v.shape[axis][0] - first]
    g.add("Split", [v.name, g.constant(parts, np.int64)], *[(F, out(v, axis, num(part))) for part in parts], axis=axis)


def slice_(g: Graph) -> None:
    v = g.pick(lambda v: any(dim[0] == dim[1] and min(dim) > 1 for dim in v.shape))
    axis = g.rng.choice([axis for axis in v.free_axes() if min(v.shape[axis]) > 1])
    if g.rng.random() < 0.5:
        start, end, dim = 1, 1 << 40, tuple(size - 1 for size in v.shape[axis])
    else:
        start, end, dim = 0, min(v.shape[axis]) - 1, num(min(v.shape[axis]) - 1)
    ends = [g.constant([number], np.int64) for number in (start, end, axis)]
    g.add("Slice", [v.name, *ends], (F, out(v, axis, dim)))


def transpose(g: Graph) -> None:
    v = g.pick(lambda v: v.rank >= 2)
    perm = list(range(v.rank))
    g.rng.shuffle(perm)
    g.add("Transpose", [v.name], (F, [v.shape[axis] for axis in perm]), perm=perm)


def transpose_and_back(g: Graph) -> None:
    """Compute with the batch on another axis, as recurrent layers and some attention layers do."""
    v = g.pick(lambda v: v.rank >= 2 and v.batch_axis == 0)
    perm = [1, 0, *range(2, v.rank)]
    (t,) = g.add("Transpose", [v.name], (F, [v.shape[axis] for axis in perm]), perm=perm)
    (r,) = g.add("Tanh", [t.name], (F, t.shape))
    g.add("Transpose", [r.name], (F, v.shape), perm=perm)


def recurrent(g: Graph) -> None:
    v = g.pick(lambda v: v.rank == 3 and v.fixed(2))
    steps, rows, size = v.shape
    if steps[0] != steps[1]:
        return
    hidden = 3
    reads = [v.name, g.weight(1, 3 * hidden, size[0]), g.weight(1, 3 * hidden, hidden)]
    made = [(F, [steps, num(1), rows, num(hidden)]), (F, [num(1), rows, num(hidden)])]
    g.add("GRU", reads, *made, hidden_size=hidden)


def flatten(g: Graph) -> None:
    v = g.pick(lambda v: v.rank >= 2)
    axis = g.rng.choice([1, 1, 1, 2, v.rank])
    first = tuple(prod(sizes) for sizes in zip(*v.shape[:axis], strict=True))
    rest = tuple(prod(sizes) for sizes in zip(*v.shape[axis:], strict=True)) if axis < v.rank else num(1)
    g.add("Flatten", [v.name], (F, [first, rest]), axis=axis)


def reshape(g: Graph) -> None:
    v = g.pick(lambda v: v.rank >= 2)
    axis = g.rng.randint(0, v.rank - 2)
    joined = tuple(a * b for a, b in zip(v.shape[axis], v.shape[axis + 1], strict=True))
    dims = [*v.shape[:axis], joined, *v.shape[axis + 2 :]]
    if g.rng.random() < 0.5:
        sizes = g.constant([*[0] * axis, -1, *(d[0] for d in dims[axis + 1 :])], np.int64)
        if not all(len(set(dim)) == 1 for dim in dims[axis + 1 :]):
            return
    else:
        known = [g.dim_of(dim) for dim in dims[:axis]] + [g.constant([-1], np.int64)]
        known += [g.dim_of(dim) for dim in dims[axis + 1 :]]
        sizes = g.add("Concat", known, (I, [num(len(dims))]), axis=0)[0].name
    (y,) = g.add("Reshape", [v.name, sizes], (F, dims))
    if g.rng.random() < 0.6:  # the reshaped value is read and reshaped back
        (r,) = g.add("Tanh", [y.name], (F, y.shape))
        if y.shape[-1] == v.shape[-1] and y.fixed(-1) and axis + 2 < v.rank:
            (r,) = g.add("MatMul", [r.name, g.weight(*[r.shape[-1][0]] * 2)], (F, r.shape))
        g.add("Reshape", [r.name, g.sizes(v.shape)], (F, v.shape))


def squeeze(g: Graph) -> None:
    v = g.pick()
    axes = [axis for axis in range(v.rank) if v.shape[axis] == num(1)]
    if axes and v.rank - len(axes) > 1 and g.rng.random() < 0.7:
        every_axis = g.rng.random() < 0.5
        removed = axes if every_axis else axes[:1]
        reads = [v.name] if every_axis and g.rng.random() < 0.3 else [v.name, g.constant(removed, np.int64)]
        g.add("Squeeze", reads, (F, [dim for axis, dim in enumerate(v.shape) if axis not in removed]))
    elif v.rank < 4:
        axis = g.rng.randint(0, v.rank)
        shape = [*v.shape[:axis], num(1), *v.shape[axis:]]
        g.add("Unsqueeze", [v.name, g.constant([axis], np.int64)], (F, shape))


def expand(g: Graph) -> None:
    v = g.pick(lambda v: v.batch_axis is not None)
    shape = [dim if dim[0] != dim[1] or len(set(dim)) > 1 or g.rng.random() < 0.5 else num(1) for dim in v.shape]
    token = g.weight(*[1 if len(set(dim)) > 1 else dim[0] for dim in shape])
    g.add("Expand", [token, g.sizes(shape)], (F, shape))


def filled(g: Graph) -> None:
    v = g.pick()
    value = numpy_helper.from_array(np.array([0.5], dtype=np.float32))
    g.add("ConstantOfShape", [g.sizes(v.shape)], (F, v.shape), value=value)


def positions(g: Graph) -> None:
    """Add positions along a dimension, and a mask of them without a batch dimension."""
    v = g.pick(lambda v: v.rank >= 2 and bool(v.free_axes()), None)
    axis = g.rng.choice(v.free_axes())
    size = g.dim_of(v.shape[axis])
    (scalar,) = g.add("Squeeze", [size, g.constant([0], np.int64)], (I, []))
    reads = [g.constant(0, np.int64), scalar.name, g.constant(1, np.int64)]
    (steps,) = g.add("Range", reads, (I, [v.shape[axis]]))
    (column,) = g.add("Unsqueeze", [steps.name, g.constant([1], np.int64)], (I, [v.shape[axis], num(1)]))
    g.add("LessOrEqual", [steps.name, column.name], (B, [v.shape[axis]] * 2))
    (number,) = g.add("Cast", [steps.name], (F, steps.shape), to=F)
    g.add("Mul", [number.name, g.constant(0.1)], (F, steps.shape))


def reduce_(g: Graph) -> None:
    v = g.pick(lambda v: v.rank >= 2 and bool(v.free_axes()))
    axis, keep = g.rng.choice(v.free_axes()), g.rng.randint(0, 1)
    reads = [v.name, g.constant([axis], np.int64)]
    shape = out(v, axis, num(1) if keep else None)
    g.add(g.rng.choice(["ReduceMean", "ReduceMax"]), reads, (F, shape), keepdims=keep)


def pad(g: Graph) -> None:
    v = g.pick(lambda v: bool(v.free_axes()))
    axis = g.rng.choice(v.free_axes())
    before = [1 if a == axis else 0 for a in range(v.rank)]
    pads = g.constant([*before, *[0] * v.rank], np.int64)
    dim = tuple(size + 1 for size in v.shape[axis])
    g.add("Pad", [v.name, pads, *g.rng.choice([[], [""], [g.constant(0.5)]])], (F, out(v, axis, dim)))


def resize(g: Graph) -> None:
    v = g.pick(lambda v: v.rank in {3, 4} and v.batch_axis == 0)
    dims = [tuple(2 * size for size in dim) for dim in v.shape[2:]]
    scales = g.constant([1, 1, *[2] * len(dims)])
    g.add("Resize", [v.name, "", scales], (F, [*v.shape[:2], *dims]), mode="nearest")


def cast(g: Graph) -> None:
    v = g.pick()
    kind = g.rng.choice([TensorProto.FLOAT16, TensorProto.DOUBLE, I, TensorProto.INT32, TensorProto.UINT8])
    name = v.name
    if kind == TensorProto.UINT8:
        (name,) = (y.name for y in g.add("Abs", [name], (F, v.shape)))
    (y,) = g.add("Cast", [name], (kind, v.shape), to=kind)
    if kind in {TensorProto.FLOAT16, TensorProto.DOUBLE}:
        (y,) = g.add("Mul", [y.name, y.name], (kind, v.shape))
    g.add("Cast", [y.name], (F, v.shape), to=F)


def mask(g: Graph) -> None:
    m = g.pick(dtype=B)
    v = g.pick(lambda v: broadcast(m.shape, v.shape) is not None)
    g.add("Where", [m.name, v.name, g.constant(0.25)], (F, broadcast(m.shape, v.shape) or ()))


def integers(g: Graph) -> None:
    v = g.pick(
        lambda v: v.rank < 4 and v.name in g.data_dependent, dtype=I
    )  # sizes would make results depend on the batch size
    (index,) = g.add("Mod", [v.name, g.constant(5, np.int64)], (I, v.shape))
    g.add("Gather", [g.weight(5, 4), index.name], (F, [*v.shape, num(4)]), axis=0)


def topk(g: Graph) -> None:
    v = g.pick(lambda v: any(min(v.shape[axis]) > 1 for axis in v.free_axes()))
    axis = g.rng.choice([axis for axis in v.free_axes() if min(v.shape[axis]) > 1])
    shape = out(v, axis, num(2))
    g.add("TopK", [v.name, g.constant([2], np.int64)], (F, shape), (I, shape), axis=axis)


def branch(g: Graph) -> None:
    """Add an If on a length, whose branches capture values and weights."""
    v = g.pick(lambda v: bool(v.free_axes()))
    w = g.pick(lambda w: broadcast(v.shape, w.shape) == v.shape)
    size = g.dim_of(v.shape[g.rng.choice(v.free_axes())])
    (long,) = g.add("Greater", [size, g.constant([4], np.int64)], (B, [num(1)]))
    scale = g.constant([1.5])
    names = [g.name() for _ in range(3)]
    outputs = [helper.make_tensor_value_info(name, F, [None] * v.rank) for name in names]
    then = helper.make_graph(
        [helper.make_node("Add", [v.name, w.name], [names[2]]), helper.make_node("Tanh", [names[2]], [names[0]])],
        "then", [], outputs[:1],
    )  # fmt: skip
    other = helper.make_graph([helper.make_node("Mul", [v.name, scale], [names[1]])], "other", [], outputs[1:2])
    g.add("If", [long.name], (F, v.shape), then_branch=then, else_branch=other)


def loop(g: Graph) -> None:
    v = g.pick()
    w = g.pick(lambda w: broadcast(v.shape, w.shape) == v.shape)
    step, on, state, still, mixed, after = (g.name() for _ in range(6))
    body = helper.make_graph(
        [
            helper.make_node("Identity", [on], [still]),
            helper.make_node("Add", [state, w.name], [mixed]),
            helper.make_node("Tanh", [mixed], [after]),
        ],
        "body",
        [
            helper.make_tensor_value_info(step, I, []),
            helper.make_tensor_value_info(on, B, []),
            helper.make_tensor_value_info(state, F, None),
        ],
        [helper.make_tensor_value_info(still, B, []), helper.make_tensor_value_info(after, F, None)],
    )
    g.add("Loop", [g.constant(2, np.int64), "", v.name], (F, v.shape), body=body)


def quantised(g: Graph) -> None:
    v = g.pick()
    scale, zero = g.constant(0.0625), g.constant(0, np.int8)
    (q,) = g.add("QuantizeLinear", [v.name, scale, zero], (TensorProto.INT8, v.shape))
    for _ in range(g.rng.randint(1, 2)):
        g.add("DequantizeLinear", [q.name, scale, zero], (F, v.shape))


def function(g: Graph) -> None:
    v = g.pick()
    w = g.pick(lambda w: broadcast(v.shape, w.shape) == v.shape)
    g.add("Block", [v.name, w.name], (F, v.shape), domain="local")


def twice(g: Graph) -> None:
    """Add the same computation twice."""
    v = g.pick()
    weight = g.constant(1.25)
    for _ in range(2):
        g.add("Mul", [v.name, weight], (F, v.shape))


def dropout(g: Graph) -> None:
    v = g.pick()
    g.add("Dropout", [v.name], (F, v.shape), (B, v.shape))


def normalise(g: Graph) -> None:
    v = g.pick(lambda v: v.rank >= 2 and v.fixed(-1))
    size = v.shape[-1][0]
    if g.rng.random() < 0.5:
        g.add("LayerNormalization", [v.name, g.weight(size), g.weight(size)], (F, v.shape), axis=-1)
        return
    v = g.pick(lambda v: v.rank >= 2 and v.batch_axis == 0 and v.fixed(1))
    size = v.shape[1][0]
    variance = g.constant(np.abs(g.weights.standard_normal(size)) + 0.5)
    g.add("BatchNormalization", [v.name, *[g.weight(size) for _ in range(3)], variance], (F, v.shape))


def einsum(g: Graph) -> None:
    v = g.pick(lambda v: v.rank == 3)
    a, b, c = v.shape
    g.add("Einsum", [v.name, v.name], (F, [a, b]), equation="abc,abc->ab")
    if len(set(c)) == 1:
        g.add("Einsum", [v.name, g.weight(c[0], 4)], (F, [b, a, num(4)]), equation="abc,cd->bad")


def constant_value(g: Graph) -> None:
    """Add a value computed only from constants."""
    shape = [g.rng.choice([1, 2, 3, 4]) for _ in range(g.rng.randint(1, 2))]
    g.add("Tanh", [g.weight(*shape)], (F, [num(size) for size in shape]))


STEPS = (
    unary, unary, identities, softmax, binary, binary, with_constant, clip, matmul, matmul, gemm, attention, conv,
    conv, pool, concat, split, slice_, transpose, transpose_and_back, recurrent, flatten, reshape, reshape, squeeze,
    expand, filled, positions, reduce_, pad, resize, cast, mask, integers, topk, branch, loop, quantised, function,
    twice, dropout, normalise, einsum, constant_value,
)  # fmt: skip
