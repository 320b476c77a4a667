"""Sorts the exits of a model by depth, shallow to deep: by the multiply-accumulates (MACs) that each exit needs."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise

import onnx_ir as ir

from edgeexit.compiler.extract import values_read_by
from edgeexit.progress import NO_PROGRESS, Progress

_TOLERANCE = 0.05
"""An exit that needs at least 95 % of the MACs of the exit before it is not misplaced.

A head behind the last block may be larger than the network's own last layer, which must stay the final exit."""


def order_exits(
    graph: ir.Graph, given: tuple[str, ...], counts: Sequence[int | None], *, progress: Progress = NO_PROGRESS
) -> tuple[str, ...]:
    """Return the exits shallow to deep; a warning names the order if it differs from the given one.

    An exit that needs over 5 % fewer MACs than another one is shallower. If the MACs of two exits differ less, an exit
    is shallower if the other one needs all of its nodes; otherwise the two keep their order. If any exit needs a node
    of unknown cost, an exit is moved only before those that need all of its nodes.

    Args:
        graph: the full model.
        given: the exits, in the order in which the user gave them.
        counts: multiply-accumulates of each node, as `count_macs` returns them.
        progress: receives the warning.

    """
    readers = _exits_that_need(graph, given)
    macs = _macs_of_exits(graph, given, readers, counts)
    order = _by_inclusion(given, set(readers.values()))
    if macs is not None:
        order = _by_macs(order, macs)
    if order != given:
        progress.warning(f"{_misplaced(given, order, macs)}; the exits are sorted by depth: {','.join(order)}")
    return order


def exits_by_inclusion(graph: ir.Graph, exits: Sequence[str]) -> tuple[str, ...]:
    """Return the exits in the given order, but each after those that need only a part of its nodes."""
    return _by_inclusion(exits, set(_exits_that_need(graph, exits).values()))


def _exits_that_need(graph: ir.Graph, exits: Sequence[str]) -> dict[ir.Node, frozenset[str]]:
    """Return which exits need each node, for all nodes that an exit needs and that do not only copy a value."""
    of_value: dict[ir.Value, frozenset[str]] = {
        value: frozenset([str(value.name)]) for value in graph.outputs if value.name in exits
    }
    of_node = {}
    for node in reversed(graph):
        needed_by = frozenset[str]().union(*(of_value.get(value, frozenset()) for value in node.outputs))
        if not needed_by:
            continue
        if node.op_type != "Identity":
            of_node[node] = needed_by
        for value in values_read_by(node):
            of_value[value] = of_value.get(value, needed_by) | needed_by
    return of_node


def _by_inclusion(exits: Sequence[str], readers: AbstractSet[frozenset[str]]) -> tuple[str, ...]:
    """Return the exits such that each comes after those that need only a part of its nodes.

    `readers` are the different sets of exits that need a node.
    """

    def is_part(one: str, other: str) -> bool:
        return all(other in each for each in readers if one in each) and any(
            one not in each for each in readers if other in each
        )

    left, order = list(exits), list[str]()
    while left:
        first = next(name for name in left if not any(is_part(other, name) for other in left))
        left.remove(first)
        order.append(first)
    return tuple(order)


def _by_macs(exits: Sequence[str], macs: Mapping[str, int]) -> tuple[str, ...]:
    """Return the exits such that none comes directly after an exit that needs over 5 % more MACs."""
    order = list[str]()
    for name in exits:
        place = len(order)
        while place and macs[name] < (1 - _TOLERANCE) * macs[order[place - 1]]:
            place -= 1
        order.insert(place, name)
    return tuple(order)


def _macs_of_exits(
    graph: ir.Graph, exits: Sequence[str], readers: Mapping[ir.Node, frozenset[str]], counts: Sequence[int | None]
) -> dict[str, int] | None:
    """Return the MACs that each exit needs, or None if any of them needs a node of unknown cost."""
    found = dict.fromkeys(exits, 0)
    for node, count in zip(graph, counts, strict=True):
        for name in readers.get(node, ()):
            if count is None:
                return None
            found[name] += count
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
