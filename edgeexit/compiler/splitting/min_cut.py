"""Finds the values with the fewest bytes from which all needed values can be recomputed: a minimum vertex cut."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov

_SOURCE: Final = ("source", "")
_SINK: Final = ("sink", "")


def min_bytes_cut(
    needed: Collection[str], recompute_inputs: Callable[[str], Collection[str] | None], sizes: Mapping[str, int]
) -> set[str]:
    """Return the values to carry such that each of `needed` is carried or can be recomputed from carried values.

    The result is a minimum vertex cut between the values that cannot be recomputed and the needed values. Of several
    minimum cuts it is the one nearest to the needed values, so that the fewest values are recomputed.

    Args:
        needed: each must be a key of `sizes`.
        recompute_inputs: returns the values from which cheap operators recompute a value, or None if it cannot be
            recomputed.
        sizes: bytes of every value that can be carried.

    """
    network = nx.DiGraph()
    for value, inputs in _reachable(needed, recompute_inputs):
        # A value is an edge whose capacity is its bytes. networkx never cuts an edge without a capacity.
        if value in sizes:
            network.add_edge(("in", value), ("out", value), capacity=max(sizes[value], 1))
        else:
            network.add_edge(("in", value), ("out", value))
        if inputs is None:
            network.add_edge(_SOURCE, ("in", value))
        for read in inputs or ():
            network.add_edge(("out", read), ("in", value))
    if not network.has_node(_SOURCE):
        return set()
    for value in needed:
        network.add_edge(("out", value), _SINK)
    # Boykov-Kolmogorov returns the smallest sink side that a minimum cut can have, and is the fastest in networkx here.
    _, (_, sink_side) = nx.minimum_cut(network, _SOURCE, _SINK, flow_func=boykov_kolmogorov)
    return {value for side, value in sink_side if side == "out" and ("in", value) not in sink_side}


def _reachable(
    needed: Iterable[str], recompute_inputs: Callable[[str], Collection[str] | None]
) -> Iterable[tuple[str, Collection[str] | None]]:
    """Yield the needed values and all values that they can be recomputed from, each with its `recompute_inputs`."""
    pending = list(needed)
    seen = set(pending)
    while pending:
        value = pending.pop()
        inputs = recompute_inputs(value)
        yield value, inputs
        fresh = [read for read in dict.fromkeys(inputs or ()) if read not in seen]
        seen.update(fresh)
        pending += fresh
