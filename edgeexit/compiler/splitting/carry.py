"""Chooses what crosses a cut: the fewest bytes from which cheap operators make the rest again."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov

_SOURCE: Final = ("source", "")
_SINK: Final = ("sink", "")


def fewest_bytes(
    needed: Collection[str], origins: Callable[[str], Collection[str] | None], sizes: Mapping[str, int]
) -> set[str]:
    """Return the values to keep so that every one of `needed` is kept or can be made again from what is.

    It is a minimum vertex cut between the values that cannot be made again and those that are needed. Of several with
    the fewest bytes it is the one nearest to what is needed, where the least is made again.

    Args:
        needed: each in `sizes`.
        origins: gives the values from which cheap operators make a value again, or None: it cannot be made again.
        sizes: bytes of every value that may be kept.

    """
    network = nx.DiGraph()
    for value, reads in _reachable(needed, origins):
        # A value is an edge as wide as its bytes; an edge without capacity is never cut.
        if value in sizes:
            network.add_edge(("in", value), ("out", value), capacity=max(sizes[value], 1))
        else:
            network.add_edge(("in", value), ("out", value))
        if reads is None:
            network.add_edge(_SOURCE, ("in", value))
        for read in reads or ():
            network.add_edge(("out", read), ("in", value))
    if not network.has_node(_SOURCE):
        return set()
    for value in needed:
        network.add_edge(("out", value), _SINK)
    # The near side is the smallest that a minimum cut can have. The algorithm is the quickest here of networkx's.
    _, (_, near) = nx.minimum_cut(network, _SOURCE, _SINK, flow_func=boykov_kolmogorov)
    return {value for side, value in near if side == "out" and ("in", value) not in near}


def _reachable(
    needed: Iterable[str], origins: Callable[[str], Collection[str] | None]
) -> Iterable[tuple[str, Collection[str] | None]]:
    pending = list(needed)
    seen = set(pending)
    while pending:
        value = pending.pop()
        reads = origins(value)
        yield value, reads
        fresh = [read for read in dict.fromkeys(reads or ()) if read not in seen]
        seen.update(fresh)
        pending += fresh
