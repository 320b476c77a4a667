"""Sorts the exits of a model by depth, shallow to deep: by the multiply-accumulates (MACs) that each exit needs."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import onnx_ir as ir

from edgeexit.compiler.extract import nodes_needed_for
from edgeexit.compiler.full_model import FullModel
from edgeexit.progress import NO_PROGRESS, Progress

_T = TypeVar("_T")


def order_exits(full_model: FullModel, counts: Sequence[int | None], *, progress: Progress = NO_PROGRESS) -> FullModel:
    """Return the model with its exits shallow to deep, each with its companions; a warning names a new order.

    An exit that needs fewer MACs is shallower; if two exits need the same number, the one whose nodes the other needs,
    too, is. If any exit needs a node of unknown cost, only exits whose nodes a deeper exit needs are moved before it.
    `counts` is the result of `count_macs`.
    """
    graph, given = full_model.model.graph, tuple(full_model.logits)
    macs = _macs_of_exits(graph, given, counts)
    order = exits_by_inclusion(graph, given)
    if macs is not None:
        order = tuple(sorted(order, key=macs.__getitem__))
    if order == given:
        return full_model
    progress.warning(f"{_misplaced(given, order, macs)}; the exits are sorted by depth: {','.join(order)}")
    outputs = {str(value.name): value for value in graph.outputs}
    companions = tuple(sorted(full_model.companions, key=lambda companion: order.index(companion.exit)))
    graph.outputs.clear()
    graph.outputs.extend(outputs[name] for name in (*order, *(companion.tensor for companion in companions)))
    reference = full_model.fp32_reference
    return full_model._replace(
        logits=_sorted(full_model.logits, order),
        companions=companions,
        fp32_reference=None if reference is None else reference._replace(logits=_sorted(reference.logits, order)),
    )


def exits_by_inclusion(graph: ir.Graph, exits: Sequence[str]) -> tuple[str, ...]:
    """Return the exits in the given order, but each after those that need only a part of its nodes."""
    needed = {name: frozenset(nodes) for name, nodes in _nodes_of_exits(graph, exits).items()}
    left, order = list(exits), list[str]()
    while left:
        first = next(name for name in left if not any(needed[other] < needed[name] for other in left))
        left.remove(first)
        order.append(first)
    return tuple(order)


def _nodes_of_exits(graph: ir.Graph, exits: Sequence[str]) -> dict[str, list[ir.Node]]:
    """Return the nodes that each exit needs, without those that only copy a value."""
    outputs = {str(value.name): value for value in graph.outputs}
    return {
        name: [node for node in nodes_needed_for(graph, [outputs[name]]) if node.op_type != "Identity"]
        for name in exits
    }


def _macs_of_exits(graph: ir.Graph, exits: Sequence[str], counts: Sequence[int | None]) -> dict[str, int] | None:
    """Return the MACs that each exit needs, or None if any of them needs a node of unknown cost."""
    macs_of_node = dict(zip(graph, counts, strict=True))
    found = {}
    for name, nodes in _nodes_of_exits(graph, exits).items():
        macs = [macs_of_node[node] for node in nodes]
        if None in macs:
            return None
        found[name] = sum(count for count in macs if count is not None)
    return found


def _misplaced(given: Sequence[str], order: Sequence[str], macs: Mapping[str, int] | None) -> str:
    """Return why the given order is not shallow to deep: the first exit that is shallower than the one before it."""
    before, exit_name = next(pair for pair in pairwise(given) if order.index(pair[0]) > order.index(pair[1]))
    if macs is None or macs[before] == macs[exit_name]:
        return f"exit '{exit_name}' needs only nodes that exit '{before}' before it needs, too"
    return (
        f"exit '{exit_name}' needs {macs[exit_name]:,} MACs, fewer than the {macs[before]:,} of exit '{before}' "
        "before it"
    )


def _sorted(values: Mapping[str, _T], order: Sequence[str]) -> dict[str, _T]:
    return {name: values[name] for name in order}
