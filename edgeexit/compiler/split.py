"""Which node runs in which stage, and what is carried between them: a pure function of the graph's shape."""

from collections.abc import Sequence
from typing import NamedTuple

from edgeexit.errors import CompileError


class Node(NamedTuple):
    """A node as splitting sees it; a value that no node makes is an input of the model or a constant."""

    reads: tuple[str, ...]
    """Values that it needs, those captured by its bodies included."""
    makes: tuple[str, ...]
    copied: bool = False
    """Made again in every stage that needs it, rather than carried: constants, DequantizeLinear, shapes, Identity."""


class Cut(NamedTuple):
    """One stage of the split."""

    nodes: tuple[int, ...]
    """Indices of its nodes, copies included, in the graph's order."""
    inputs: tuple[str, ...]
    """Inputs of the model that it reads, in the model's order."""
    carry_in: tuple[str, ...]
    """Values of earlier stages that it reads, in the order in which the graph makes them."""
    carry_out: tuple[str, ...]
    """Values that it makes and later stages read, over any distance."""


def split(nodes: Sequence[Node], *, inputs: Sequence[str], exits: Sequence[str]) -> tuple[Cut, ...]:
    """Split a graph at its exits: stage k is what exit k needs and no earlier exit needed.

    Every node that is not `copied` and that some exit needs is in exactly one stage.

    Args:
        nodes: in an order in which they can run.
        inputs: names of the model's inputs.
        exits: names of the values that leave, shallow to deep.

    Raises CompileError for an exit that adds no work or that depends on no input.

    """
    maker = {value: index for index, node in enumerate(nodes) for value in node.makes}
    fed = _fed(nodes, inputs)
    owner: dict[int, int] = {}
    members: list[list[int]] = []
    reads: list[set[str]] = []
    for stage, wanted in enumerate(exits):
        if wanted not in fed:
            raise CompileError(f"exit '{wanted}' depends on no input of the model: its answer is always the same")
        visited, read = _visit(wanted, nodes, maker, owner)
        owned = [index for index in visited if not nodes[index].copied]
        if not owned:
            after = f"after '{exits[stage - 1]}': all that it needs has already run" if stage else "to the input"
            raise CompileError(
                f"exit '{wanted}' adds no work {after}; return the exits in order of depth, shallow to deep, each once"
            )
        owner |= dict.fromkeys(owned, stage)
        members.append(sorted(visited))
        reads.append(read)

    carry_in = [
        tuple(sorted((value for value in read if value in maker), key=lambda value: _place(value, maker, nodes)))
        for read in reads
    ]
    return tuple(
        Cut(
            nodes=tuple(members[stage]),
            inputs=tuple(name for name in inputs if name in reads[stage]),
            carry_in=carry_in[stage],
            carry_out=tuple(
                value
                for index in members[stage]
                if owner.get(index) == stage
                for value in nodes[index].makes
                if any(value in later for later in carry_in[stage + 1 :])
            ),
        )
        for stage in range(len(exits))
    )


def _visit(
    wanted: str, nodes: Sequence[Node], maker: dict[str, int], owner: dict[int, int]
) -> tuple[set[int], set[str]]:
    """Walk up from a value to what is there; return the nodes on the way and what they read from outside."""
    visited: set[int] = set()
    outside: set[str] = set()
    pending = [wanted]
    while pending:
        value = pending.pop()
        index = maker.get(value)
        if index is None or index in owner:
            outside.add(value)
        elif index not in visited:
            visited.add(index)
            pending.extend(nodes[index].reads)
    return visited, outside


def _fed(nodes: Sequence[Node], inputs: Sequence[str]) -> set[str]:
    """Return the inputs and every value that depends on one."""
    fed = set(inputs)
    for node in nodes:
        if not fed.isdisjoint(node.reads):
            fed.update(node.makes)
    return fed


def _place(value: str, maker: dict[str, int], nodes: Sequence[Node]) -> tuple[int, int]:
    index = maker[value]
    return index, nodes[index].makes.index(value)
