"""Which node runs in which stage, and what is kept between them: a pure function of plain data."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal, NamedTuple, cast

from edgeexit.compiler.splitting.carry import fewest_bytes
from edgeexit.errors import CompileError

Again = Literal["freely", "if needed", "never"]


class Node(NamedTuple):
    """A node as splitting sees it; a value that no node makes is an input of the model or a constant."""

    reads: tuple[str, ...]
    """Values that it needs, those captured by its bodies included."""
    makes: tuple[str, ...]
    again: Again = "never"
    """Whether another stage may run it again: `freely` when it is cheap, `if needed` for what cannot be kept."""
    stays: bool = False
    """It runs in the stage of what it reads, even when only later stages need it: QuantizeLinear."""
    alias: bool = False
    """It gives what it reads another name: Identity."""
    random: bool = False
    """It makes something else every time."""
    shape_of: str | None = None
    """The value whose shape it makes, which it need not read: any values with the same `words` will do."""
    words: frozenset[str] = frozenset()
    """Names of the dimensions in the shape that it makes."""
    title: str = "node"
    """How errors call it."""


class Kept(NamedTuple):
    """What is known of a value that may be kept between stages."""

    size: int
    """Bytes a sample."""
    words: frozenset[str] = frozenset()
    """Names of its dimensions."""


class Cut(NamedTuple):
    """One stage of the split."""

    nodes: tuple[int, ...]
    """Indices of its nodes in the graph's order, those that run again included."""
    inputs: tuple[str, ...]
    """Inputs of the model that it reads, in the model's order."""
    carry_in: tuple[str, ...]
    """Values of earlier stages that it reads, in the order in which the graph makes them."""
    carry_out: tuple[str, ...]
    """Values that it makes and later stages read, over any distance, in the graph's order."""
    kept: tuple[str, ...]
    """All that is kept for it and later stages before it runs: inputs of the model, then values."""


class DataflowGraph:
    """A graph as splitting sees it, and the stage that owns each node.

    Stage k owns what exit k needs and no earlier exit needed; a node that `stays` belongs where what it reads does.

    Args:
        nodes: in an order in which they can run.
        inputs: names of the model's inputs.
        exits: names of the values that leave, shallow to deep.

    Raises CompileError for an exit that depends on no input, equals another or adds no work.

    """

    def __init__(self, nodes: Sequence[Node], *, inputs: Sequence[str], exits: Sequence[str]) -> None:
        self.nodes = nodes
        self.inputs = tuple(inputs)
        self.exits = tuple(exits)
        self.maker = {value: index for index, node in enumerate(nodes) for value in node.makes}
        self.varying = self._varying()
        self.owner: dict[int, int] = {}
        self._check_sources()
        for stage, wanted in enumerate(self.exits):
            visited, _ = self.walk([wanted], lambda value: self.maker[value] in self.owner)
            if all(nodes[index].alias or self.varying.isdisjoint(nodes[index].makes) for index in visited):
                raise CompileError(self._no_work(stage))
            self.owner |= dict.fromkeys(visited, stage)
        for index, node in enumerate(nodes):
            if node.stays and index in self.owner and not set(node.makes).intersection(self.exits):
                owners = [self.owner_of(value) for value in node.reads if value in self.varying]
                self.owner[index] = min(self.owner[index], max(owners, default=0))

    def owner_of(self, value: str) -> int:
        """Return the stage that owns a value; inputs of the model are there from the first on."""
        return self.owner.get(self.maker.get(value, -1), 0)

    def walk(self, wanted: Iterable[str], stop: Callable[[str], bool]) -> tuple[set[int], set[str]]:
        """Walk up from values to what no node makes or where `stop` says so; return the nodes and where it ended."""
        visited: set[int] = set()
        ends: set[str] = set()
        pending = list(wanted)
        while pending:
            value = pending.pop()
            index = self.maker.get(value)
            if index is None or stop(value):
                ends.add(value)
            elif index not in visited:
                visited.add(index)
                pending.extend(self.nodes[index].reads)
        return visited, ends

    def needed_before(self, stage: int, later: Collection[str]) -> set[str]:
        """Return what a stage and the keeping of `later` need of earlier stages; constants are none of it."""
        _, ends = self.walk([self.exits[stage], *later], lambda value: self.owner_of(value) < stage)
        return ends & self.varying

    def reads_of(self, value: str) -> tuple[str, ...]:
        """Return the values, constants excepted, from which a value that a node makes is made."""
        return tuple(read for read in self.nodes[self.maker[value]].reads if read in self.varying)

    def in_order(self, values: Collection[str]) -> tuple[str, ...]:
        """Return those of `values` that nodes make, in the order in which they do."""
        made = [value for value in values if value in self.maker]
        return tuple(
            sorted(made, key=lambda value: (self.maker[value], self.nodes[self.maker[value]].makes.index(value)))
        )

    def _varying(self) -> set[str]:
        """Return the inputs and all that may differ from run to run; other values every stage makes for itself."""
        varying = set(self.inputs)
        for node in self.nodes:
            if node.random or not varying.isdisjoint(node.reads):
                varying.update(node.makes)
        return varying

    def _check_sources(self) -> None:
        fed = set(self.inputs)
        for node in self.nodes:
            if not fed.isdisjoint(node.reads):
                fed.update(node.makes)
        named: dict[str, str] = {}
        for wanted in self.exits:
            if wanted not in fed:
                raise CompileError(f"exit '{wanted}' depends on no input of the model: its answer is always the same")
            value = wanted
            while value in self.maker and self.nodes[self.maker[value]].alias:
                value = self.nodes[self.maker[value]].reads[0]
            if value in named:
                raise CompileError(f"exits '{named[value]}' and '{wanted}' are the same value; return every exit once")
            named[value] = wanted

    def _no_work(self, stage: int) -> str:
        wanted = self.exits[stage]
        if not stage:
            return f"exit '{wanted}' adds no work to the input"
        depth = {name: len(self.walk([name], lambda _: False)[0]) for name in self.exits}
        order = sorted(self.exits, key=lambda name: depth[name])
        return (
            f"exit '{wanted}' adds no work after '{self.exits[stage - 1]}': all that it needs has already run; "
            f"return the exits shallow to deep ({', '.join(order)}), or choose among them with --exits"
        )


def candidates(flow: DataflowGraph, kept: Mapping[str, Kept | None]) -> set[str]:
    """Return the values that may be kept between stages.

    `kept` is what is known so far, None for a value that cannot be kept; there may be more candidates when it grows.
    """
    found = set(flow.inputs)
    for stage in range(len(flow.exits)):
        found |= flow.needed_before(stage, [])
    for index, stage in flow.owner.items():
        found |= {read for read in flow.nodes[index].reads if read in flow.varying and flow.owner_of(read) < stage}
    pending = [value for value in found if value in flow.maker]
    while pending:
        value = pending.pop()
        again = flow.nodes[flow.maker[value]].again
        if again == "freely" or (again == "if needed" and value in kept and kept[value] is None):
            fresh = set(flow.reads_of(value)) - found
            found |= fresh
            pending += [read for read in fresh if read in flow.maker]
    return found


def split(flow: DataflowGraph, kept: Mapping[str, Kept | None]) -> tuple[Cut, ...]:
    """Split a graph at its exits so that the fewest bytes are kept at every cut.

    A node that may not run again `freely` is in one stage alone, unless a value that cannot be kept needs it.

    Args:
        flow: the graph.
        kept: of each of `candidates`, None for a value that cannot be kept.

    Raises CompileError where a value that cannot be kept would have to be made by a node that may not run again.

    """
    sizes = {value: known.size for value, known in kept.items() if known is not None}
    cuts: list[Cut] = []
    later: set[str] = set()
    for stage in reversed(range(len(flow.exits))):
        here = set(flow.inputs)
        if stage:
            here = fewest_bytes(_keepable(flow, stage, later, kept), lambda value: _origins(flow, value), sizes)
        members, ends = flow.walk([flow.exits[stage], *(later - here)], here.__contains__)
        reads = ends & flow.varying
        _add_sizes(flow, members, reads, here, kept)
        cuts.append(
            Cut(
                nodes=tuple(sorted(members)),
                inputs=tuple(name for name in flow.inputs if name in reads),
                carry_in=flow.in_order(reads),
                carry_out=flow.in_order(later - here),
                kept=(*(name for name in flow.inputs if name in here), *flow.in_order(here)),
            )
        )
        later = here
    return tuple(reversed(cuts))


def _keepable(flow: DataflowGraph, stage: int, later: AbstractSet[str], kept: Mapping[str, Kept | None]) -> set[str]:
    """Return what a stage and those after it need of earlier ones; for values that cannot be kept, what makes them."""
    found: set[str] = set()
    pending = list(flow.needed_before(stage, later))
    seen = set(pending)
    while pending:
        value = pending.pop()
        if kept[value] is not None:
            found.add(value)
            continue
        node = flow.nodes[flow.maker[value]]
        if node.again == "never":
            raise CompileError(
                f"stage {stage} needs '{value}', which stage {flow.owner_of(value)} makes in {node.title} and which "
                "has no dimension for the batch alone; keep the batch a dimension of its own where the exits branch off"
            )
        fresh = set(flow.reads_of(value)) - seen
        seen |= fresh
        pending += fresh
    return found


def _origins(flow: DataflowGraph, value: str) -> tuple[str, ...] | None:
    index = flow.maker.get(value)
    return flow.reads_of(value) if index is not None and flow.nodes[index].again == "freely" else None


def _add_sizes(
    flow: DataflowGraph, members: AbstractSet[int], reads: set[str], here: set[str], kept: Mapping[str, Kept | None]
) -> None:
    """Let a stage read, and keep for it, values that have the dimensions of the shapes that it makes."""

    def words(value: str) -> frozenset[str]:
        known = kept[value]
        return frozenset() if known is None else known.words

    present = reads.union(*(flow.nodes[index].makes for index in members))
    wanted = set().union(*(flow.nodes[index].words for index in members if flow.nodes[index].shape_of not in present))
    for word in sorted(wanted):
        if not any(word in words(value) for value in reads):
            known = [value for value in (*flow.in_order(here), *flow.inputs) if word in words(value)]
            chosen = min(known, key=lambda value: (value not in here, cast("Kept", kept[value]).size))
            here.add(chosen)
            reads.add(chosen)
