"""Steps of a random graph that fold another dimension into the batch, compute on the rows, and unfold them again."""

from typing import NamedTuple

import numpy as np

from tests.compiler.graph_builder import Dim, F, Graph, I, Value, num


class Fold(NamedTuple):
    """A value with the batch and another dimension in one."""

    value: Value
    at: int
    """Axis of the rows."""
    pair: tuple[Dim, Dim]
    """The two dimensions, outermost first."""
    perm: tuple[int, ...]
    """Permutation before the fold."""


def fold(g: Graph) -> None:
    """Fold a dimension into the batch, before or behind it, at any axis."""
    v = g.pick(lambda v: v.rank in {2, 3, 4} and v.batch_axis is not None)
    batch = v.batch_axis
    assert batch is not None
    pair = [batch, g.rng.choice(v.free_axes())]
    g.rng.shuffle(pair)
    rest = [axis for axis in range(v.rank) if axis not in pair]
    at = g.rng.randint(0, len(rest))
    perm = (*rest[:at], *pair, *rest[at:])
    dims = [v.shape[axis] for axis in perm]
    if perm != tuple(range(v.rank)):
        (v,) = g.add("Transpose", [v.name], (F, dims), perm=perm)
    rows: Dim = tuple(one * other for one, other in zip(dims[at], dims[at + 1], strict=True))
    shape = [*dims[:at], rows, *dims[at + 2 :]]
    minus_one = g.constant([-1], np.int64)
    parts = [minus_one if axis == at else g.dim_of(dim) for axis, dim in enumerate(shape)]
    (sizes,) = g.add("Concat", parts, (I, [num(len(shape))]), axis=0)
    (folded,) = g.add("Reshape", [v.name, sizes.name], (F, shape))
    g.folds.append(Fold(folded, at, (dims[at], dims[at + 1]), perm))


def unfold(g: Graph) -> None:
    """Compute on folded rows, and make the batch a dimension of its own again; the rows stay open for later steps."""
    v, at, pair, perm = opened = g.rng.choice(g.folds)
    if at < v.rank - 1 and v.fixed(-1):
        k = g.rng.choice([2, 3, 4])
        (v,) = g.add("MatMul", [v.name, g.weight(v.shape[-1][0], k)], (F, [*v.shape[:-1], num(k)]))
    (v,) = g.add("Tanh", [v.name], (F, v.shape))
    g.folds.append(opened._replace(value=v))
    dims = [*v.shape[:at], *pair, *v.shape[at + 1 :]]
    (v,) = g.add("Reshape", [v.name, g.sizes(dims)], (F, dims))
    inverse = [perm.index(axis) for axis in range(v.rank)]
    if inverse != sorted(inverse):
        g.add("Transpose", [v.name], (F, [dims[axis] for axis in inverse]), perm=inverse)


FOLDS = (fold, unfold, unfold)
