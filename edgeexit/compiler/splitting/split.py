"""Assigns nodes to stages and chooses the carries between them: pure functions of plain data, without ONNX."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Literal, NamedTuple, cast

from edgeexit.compiler.splitting.min_cut import min_bytes_cut
from edgeexit.errors import CompileError

RecomputeMode = Literal["freely", "if needed", "never"]
"""Whether a second stage may run a node again.

`freely`: yes, the node is cheap. `if needed`: only to recompute a value that cannot be carried. `never`: no, the node
is too expensive, or random."""


class GraphNode(NamedTuple):
    """A node of the graph. A value that no node produces is a model input or a constant."""

    inputs: tuple[str, ...]
    """Values that the node reads, including those that its subgraphs capture."""
    outputs: tuple[str, ...]
    recompute: RecomputeMode = "never"
    stays_with_inputs: bool = False
    """The node runs in the stage of its inputs even if only later stages read its output (QuantizeLinear)."""
    is_alias: bool = False
    """The output equals the input (Identity)."""
    moves_data: bool = False
    """The node only copies, selects or rearranges elements (Slice, Reshape, Concat)."""
    selects: bool = False
    """The output is a part of the input (Slice, Gather, Split)."""
    is_random: bool = False
    """The output is different in every run."""
    shape_of: str | None = None
    """For a Shape node: the value whose shape it returns.

    The node does not have to read this value: it can read the same `symbolic_dims` from other tensors."""
    symbolic_dims: frozenset[str] = frozenset()
    """For a Shape node: the symbolic dimensions that it returns."""
    label: str = "node"
    """Name in error messages."""


class CarryCandidate(NamedTuple):
    """A value that may be carried from one stage to later ones."""

    bytes_per_sample: int
    symbolic_dims: frozenset[str] = frozenset()


class StagePlan(NamedTuple):
    """One stage of the split."""

    nodes: tuple[int, ...]
    """Indices of the stage's nodes, in graph order, including the recomputed ones."""
    inputs: tuple[str, ...]
    """Model inputs that the stage reads, in the model's order."""
    carry_in: tuple[str, ...]
    """Values of earlier stages that the stage reads, in graph order."""
    carry_out: tuple[str, ...]
    """Values that the stage produces and any later stage reads, in graph order."""
    targets: tuple[str, ...]
    """Values that the stage returns: its exit, then the companions of the exit."""
    live_before: tuple[str, ...]
    """Values from before the stage that it or a later stage reads: model inputs, then values in graph order."""


class DataflowGraph:
    """The graph, and the stage that owns each node.

    Stage k owns the nodes that exit k or its companions need and no earlier stage owns. A node with `stays_with_inputs`
    belongs to the stage of its inputs.

    Attributes:
        producer: value -> index of the node that produces it.
        owner: index of a node -> stage that owns it; nodes that no exit or companion needs are absent.
        targets: for each stage, the values that it computes: the exit, then its companions.
        non_constant: model inputs and all values that may differ from run to run.

    Args:
        nodes: in topological order.
        inputs: names of the model's inputs.
        exits: names of the exit values, shallow to deep.
        companions: exit -> names of the values that are delivered beside it.
        find_blocker: for an exit -> label of the operator that computes it together with other exits, or None; for
            the error message of an exit that needs no work beyond that of earlier exits.

    Raises CompileError for an exit that does not depend on an input, equals another exit, or adds no work.

    """

    def __init__(
        self,
        nodes: Sequence[GraphNode],
        *,
        inputs: Sequence[str],
        exits: Sequence[str],
        companions: Mapping[str, Sequence[str]] = MappingProxyType({}),
        find_blocker: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self.nodes = nodes
        self.inputs = tuple(inputs)
        self.exits = tuple(exits)
        self.targets = tuple((name, *companions.get(name, ())) for name in self.exits)
        self.producer = {value: index for index, node in enumerate(nodes) for value in node.outputs}
        self.non_constant = self._non_constant()
        self.owner: dict[int, int] = {}
        self._find_blocker = find_blocker
        self._check_sources()
        for stage, exit_name in enumerate(self.exits):
            visited, _ = self.walk_upstream([exit_name], lambda value: self.producer[value] in self.owner)
            if not self._is_work(visited) or (stage and self._is_computed_before(stage, visited)):
                raise CompileError(self._no_work(stage))
            needed, _ = self.walk_upstream(self.targets[stage], lambda value: self.producer[value] in self.owner)
            self.owner |= dict.fromkeys(needed, stage)
        outputs = {value for values in self.targets for value in values}
        for index, node in enumerate(nodes):
            if node.stays_with_inputs and index in self.owner and outputs.isdisjoint(node.outputs):
                owners = [self.owner_of(value) for value in node.inputs if value in self.non_constant]
                self.owner[index] = min(self.owner[index], max(owners, default=0))

    def owner_of(self, value: str) -> int:
        """Return the stage that owns a value; model inputs belong to stage 0."""
        return self.owner.get(self.producer.get(value, -1), 0)

    def walk_upstream(self, values: Iterable[str], stop: Callable[[str], bool]) -> tuple[set[int], set[str]]:
        """Walk from values to their producers, up to values without producer and values where `stop` returns True.

        Return the indices of the visited nodes, and the values where the walk ended.
        """
        visited: set[int] = set()
        ends: set[str] = set()
        pending = list(values)
        while pending:
            value = pending.pop()
            index = self.producer.get(value)
            if index is None or stop(value):
                ends.add(value)
            elif index not in visited:
                visited.add(index)
                pending.extend(self.nodes[index].inputs)
        return visited, ends

    def needed_before(self, stage: int, later: Collection[str]) -> set[str]:
        """Return the values of earlier stages that a stage needs for its targets and `later`, without constants."""
        _, ends = self.walk_upstream([*self.targets[stage], *later], lambda value: self.owner_of(value) < stage)
        return ends & self.non_constant

    def producer_inputs(self, value: str) -> tuple[str, ...]:
        """Return the inputs, without constants, of the node that produces a value."""
        return tuple(read for read in self.nodes[self.producer[value]].inputs if read in self.non_constant)

    def in_graph_order(self, values: Collection[str]) -> tuple[str, ...]:
        """Return those of `values` that nodes produce, in graph order."""
        produced = [value for value in values if value in self.producer]
        return tuple(
            sorted(
                produced,
                key=lambda value: (self.producer[value], self.nodes[self.producer[value]].outputs.index(value)),
            )
        )

    def _non_constant(self) -> set[str]:
        """Return the model inputs and all values that may differ from run to run; every stage computes the others."""
        found = set(self.inputs)
        for node in self.nodes:
            if node.is_random or not found.isdisjoint(node.inputs):
                found.update(node.outputs)
        return found

    def _check_sources(self) -> None:
        """Check that every exit depends on an input and that no two exits are the same value."""
        dependent = set(self.inputs)
        for node in self.nodes:
            if not dependent.isdisjoint(node.inputs):
                dependent.update(node.outputs)
        exit_of: dict[str, str] = {}
        for exit_name in self.exits:
            if exit_name not in dependent:
                raise CompileError(f"exit '{exit_name}' depends on no input of the model: its value is always the same")
            value = exit_name
            while value in self.producer and self.nodes[self.producer[value]].is_alias:
                value = self.nodes[self.producer[value]].inputs[0]
            if value in exit_of:
                raise CompileError(
                    f"exits '{exit_of[value]}' and '{exit_name}' are the same value; return every exit once"
                )
            exit_of[value] = exit_name

    def _is_work(self, indices: Iterable[int]) -> bool:
        """Return True if any of the nodes computes more than a copy or a constant."""
        found = [self.nodes[index] for index in indices]
        return any(not node.is_alias and not self.non_constant.isdisjoint(node.outputs) for node in found)

    def _is_computed_before(self, stage: int, own: Collection[int]) -> bool:
        """Return True if a stage only takes its exit out of tensors that earlier exits are taken out of, too.

        Elementwise operators after that are no work: all matmuls and convolutions are in earlier stages.
        """
        nodes = [self.nodes[index] for index in own if not self.non_constant.isdisjoint(self.nodes[index].outputs)]
        if all(node.moves_data or node.is_alias for node in nodes):
            return True
        if any(node.recompute == "never" for node in nodes):
            return False
        return not self._selected_from(self.exits[stage : stage + 1]).isdisjoint(
            self._selected_from(self.exits[:stage])
        )

    def _selected_from(self, exits: Sequence[str]) -> set[str]:
        """Return the tensors of which exits are parts, also if other operators than matmuls and convolutions follow."""
        nodes, producer = self.nodes, self.producer
        found, _ = self.walk_upstream(exits, lambda value: nodes[producer[value]].recompute == "never")
        return {value for index in found if nodes[index].selects for value in nodes[index].inputs} & self.non_constant

    def _no_work(self, stage: int) -> str:
        """Return the error message for an exit that earlier stages compute."""
        exit_name = self.exits[stage]
        if not stage:
            return f"exit '{exit_name}' is a copy of a model input; select exits with --exits"
        last = self.exits[stage - 1]
        earlier, _ = self.walk_upstream(self.exits[:stage], lambda _: False)
        alone, _ = self.walk_upstream([exit_name], lambda value: self.producer[value] in earlier)
        is_part = not self._selected_from([exit_name]).isdisjoint(self._selected_from(self.exits[:stage]))
        if (self._is_work(alone) and self._is_computed_before(stage, alone)) or (is_part and not alone):
            together = self._find_blocker(last) or self._last_computation(exit_name)
            return (
                f"exit '{exit_name}' needs no work beyond that of '{last}': {together} computes the exits together, in "
                "one tensor; compute each exit from its own features, or select exits with --exits"
            )
        problem = f"exit '{exit_name}' adds no node after '{last}'"
        if self._is_work(alone):
            return f"{problem}: the companions of earlier exits need all of its nodes; choose other outputs for them"
        return f"{problem}: earlier exits need all of its nodes; select exits with --exits"

    def _last_computation(self, exit_name: str) -> str:
        """Return the label of the last node before an exit that does more than move data."""
        _, ends = self.walk_upstream([exit_name], lambda value: not self.nodes[self.producer[value]].moves_data)
        last = self.in_graph_order(ends & self.non_constant)
        return self.nodes[self.producer[last[-1]]].label if last else "no operator"


def carry_candidates(flow: DataflowGraph, known: Mapping[str, CarryCandidate | None]) -> set[str]:
    """Return the values that the split may choose as carries; it must know their sizes.

    `known` holds the values examined so far; None marks a value that cannot be carried. A larger `known` may give more
    candidates, so call this function until it returns no new ones.
    """
    found = set(flow.inputs)
    for stage in range(len(flow.exits)):
        found |= flow.needed_before(stage, [])
    for index, stage in flow.owner.items():
        found |= {
            read for read in flow.nodes[index].inputs if read in flow.non_constant and flow.owner_of(read) < stage
        }
    pending = [value for value in found if value in flow.producer]
    while pending:
        value = pending.pop()
        recompute = flow.nodes[flow.producer[value]].recompute
        if recompute == "freely" or (recompute == "if needed" and value in known and known[value] is None):
            fresh = set(flow.producer_inputs(value)) - found
            found |= fresh
            pending += [read for read in fresh if read in flow.producer]
    return found


def split(flow: DataflowGraph, candidates: Mapping[str, CarryCandidate | None]) -> tuple[StagePlan, ...]:
    """Split a graph at its exits such that the live tensors have the fewest bytes at every cut.

    A node that may not be recomputed `freely` runs in one stage only, except when it is needed for a value that cannot
    be carried.

    Args:
        flow: the graph.
        candidates: an entry for each of `carry_candidates`; None marks a value that cannot be carried.

    Raises CompileError if a value that cannot be carried can only be produced by a node that may never be recomputed.

    """
    sizes = {value: known.bytes_per_sample for value, known in candidates.items() if known is not None}
    stages: list[StagePlan] = []
    later: set[str] = set()
    for stage in reversed(range(len(flow.exits))):
        live = set(flow.inputs)
        if stage:
            needed = _carryable_needs(flow, stage, later, candidates)
            live = min_bytes_cut(needed, lambda value: _recompute_inputs(flow, value), sizes)
        members, ends = flow.walk_upstream([*flow.targets[stage], *(later - live)], live.__contains__)
        reads = ends & flow.non_constant
        _add_shape_sources(flow, members, reads, live, candidates)
        stages.append(
            StagePlan(
                nodes=tuple(sorted(members)),
                inputs=tuple(name for name in flow.inputs if name in reads),
                carry_in=flow.in_graph_order(reads),
                carry_out=flow.in_graph_order(later - live),
                targets=flow.targets[stage],
                live_before=(*(name for name in flow.inputs if name in live), *flow.in_graph_order(live)),
            )
        )
        later = live
    return tuple(reversed(stages))


def _carryable_needs(
    flow: DataflowGraph, stage: int, later: AbstractSet[str], candidates: Mapping[str, CarryCandidate | None]
) -> set[str]:
    """Return the values of earlier stages that this and later stages need, without those that cannot be carried.

    A value that cannot be carried is recomputed, so the inputs of its producer are needed in its place. Raises
    CompileError if its producer may never be recomputed.
    """
    found: set[str] = set()
    pending = list(flow.needed_before(stage, later))
    seen = set(pending)
    while pending:
        value = pending.pop()
        if candidates[value] is not None:
            found.add(value)
            continue
        node = flow.nodes[flow.producer[value]]
        if node.recompute == "never":
            raise CompileError(
                f"stage {stage} needs '{value}', which {node.label} of stage {flow.owner_of(value)} produces; it "
                "cannot be carried, because it has no rows of its own for each sample: no dimension is the batch, or a "
                "multiple of it; keep the batch as a separate dimension where the exits branch off"
            )
        fresh = set(flow.producer_inputs(value)) - seen
        seen |= fresh
        pending += fresh
    return found


def _recompute_inputs(flow: DataflowGraph, value: str) -> tuple[str, ...] | None:
    """Return the values from which a value can be recomputed freely, or None if it cannot."""
    index = flow.producer.get(value)
    return flow.producer_inputs(value) if index is not None and flow.nodes[index].recompute == "freely" else None


def _add_shape_sources(
    flow: DataflowGraph,
    members: AbstractSet[int],
    reads: set[str],
    live: set[str],
    candidates: Mapping[str, CarryCandidate | None],
) -> None:
    """Add to `reads` and `live` a value for every symbolic dimension that the stage's Shape nodes need.

    A value that is live already is preferred, then the smallest one.
    """

    def dims_of(value: str) -> frozenset[str]:
        known = candidates[value]
        return frozenset() if known is None else known.symbolic_dims

    present = reads.union(*(flow.nodes[index].outputs for index in members))
    wanted = set().union(
        *(flow.nodes[index].symbolic_dims for index in members if flow.nodes[index].shape_of not in present)
    )
    for name in sorted(wanted):
        if not any(name in dims_of(value) for value in reads):
            sources = [value for value in (*flow.in_graph_order(live), *flow.inputs) if name in dims_of(value)]
            chosen = min(
                sources,
                key=lambda value: (value not in live, cast("CarryCandidate", candidates[value]).bytes_per_sample),
            )
            live.add(chosen)
            reads.add(chosen)
