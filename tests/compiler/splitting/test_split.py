"""The pure core of splitting, on random graphs."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.compiler.splitting.split import CarryCandidate, DataflowGraph, GraphNode, carry_candidates, split
from edgeexit.errors import CompileError

INPUTS = ("in0", "in1")
CONSTANTS = ("w0", "w1")
SIZES = (1, 1, 2, 4, 16)


@st.composite
def graphs(draw, most=14, *, uncarryable=True):
    """Draw nodes that read any earlier values, two to four exits, and the values that can be carried."""
    nodes, values = [], []
    for index in range(draw(st.integers(2, most))):
        reads = draw(st.lists(st.sampled_from([*INPUTS, *CONSTANTS, *values]), min_size=1, max_size=3, unique=True))
        makes = [f"v{index}.{output}" for output in range(draw(st.sampled_from((1, 1, 1, 2))))]
        again = draw(st.sampled_from(("freely", "freely", "if needed", "never")))
        nodes.append(
            GraphNode(
                tuple(reads), tuple(makes), again, stays_with_inputs=again == "freely" and draw(st.integers(0, 4)) == 0
            )
        )
        values += makes
    exits = draw(st.lists(st.sampled_from(values), min_size=2, max_size=4, unique=True))
    sizes = {name: CarryCandidate(draw(st.sampled_from(SIZES))) for name in (*INPUTS, *values)}
    if uncarryable:
        sizes |= {name: None for name in values if draw(st.integers(0, 9)) == 0}
    return nodes, sorted(exits, key=values.index), sizes


def cut_up(graph):
    """Return the split of a graph and what it was made from, or None where it is refused."""
    nodes, exits, sizes = graph
    try:
        flow = DataflowGraph(nodes, inputs=INPUTS, exits=exits)
        return flow, split(flow, sizes)
    except CompileError:
        return None


def compute(nodes, order, values):
    """Run nodes in order on what is there; a value is the record of how it came about."""
    for index in order:
        record = tuple(values[name] for name in nodes[index].inputs)
        values |= {name: hash((name, record)) for name in nodes[index].outputs}
    return values


def ancestors(wanted, nodes):
    maker = {value: index for index, node in enumerate(nodes) for value in node.outputs}
    found, pending = set(), list(wanted)
    while pending:
        index = maker.get(pending.pop())
        if index is not None and index not in found:
            found.add(index)
            pending += nodes[index].inputs
    return found


@given(graphs())
def test_the_stages_composed_are_the_whole_graph(graph):
    nodes, exits, _ = graph
    if (found := cut_up(graph)) is None:
        return
    constants = {name: hash(name) for name in CONSTANTS}
    inputs = {name: hash(name) for name in INPUTS}
    whole = compute(nodes, range(len(nodes)), constants | inputs)
    there = dict(inputs)
    for cut, exit_name in zip(found[1], exits, strict=True):
        there = {name: there[name] for name in cut.live_before}  # a KeyError: kept, and no earlier stage gives it
        made = compute(nodes, cut.nodes, constants | {name: there[name] for name in (*cut.inputs, *cut.carry_in)})
        assert made[exit_name] == whole[exit_name]
        there |= {name: made[name] for name in cut.carry_out}


@given(graphs())
def test_what_is_dear_runs_in_one_stage_and_only_what_is_needed_runs(graph):
    nodes, exits, sizes = graph
    if (found := cut_up(graph)) is None:
        return
    flow, cuts = found
    runs = [index for cut in cuts for index in cut.nodes if not flow.non_constant.isdisjoint(nodes[index].outputs)]
    assert {index for index, node in enumerate(nodes) if node.recompute == "never" and runs.count(index) > 1} == set()
    if None not in sizes.values():
        assert all(nodes[index].recompute == "freely" for index in set(runs) if runs.count(index) > 1)
        expensive = {index for index in ancestors(exits, nodes) if nodes[index].recompute != "freely"}
        assert {index for index in expensive if not flow.non_constant.isdisjoint(nodes[index].outputs)} <= set(runs)
    assert set(runs) <= ancestors(exits, nodes)


@given(graphs())
def test_a_value_has_one_maker_and_is_kept_from_there_to_its_last_reader(graph):
    if (found := cut_up(graph)) is None:
        return
    _, cuts = found
    handed_out = [name for cut in cuts for name in cut.carry_out]
    assert len(handed_out) == len(set(handed_out))
    for k, cut in enumerate(cuts):
        read_from_here = {name for later in cuts[k:] for name in (*later.inputs, *later.carry_in)}
        made_before = {name for earlier in cuts[:k] for name in earlier.carry_out}.union(INPUTS)
        assert k == 0 or set(cut.live_before) == read_from_here & made_before


def bytes_kept(cut, sizes):
    return sum(sizes[name].bytes_per_sample for name in cut.live_before)


def naive_bytes(flow, stage, sizes):
    """Bytes of all that later stages read of what earlier ones own: nothing is made again."""
    crossing = set()
    for index, owner in flow.owner.items():
        if owner >= stage:
            crossing |= {v for v in flow.nodes[index].inputs if v in flow.non_constant and flow.owner_of(v) < stage}
            crossing |= {v for v in flow.nodes[index].inputs if v in flow.inputs}
    return sum(sizes[name].bytes_per_sample for name in crossing)


@given(graphs(uncarryable=False))
def test_never_more_bytes_are_kept_than_when_nothing_is_made_again(graph):
    sizes = graph[2]
    if (found := cut_up(graph)) is None:
        return
    flow, cuts = found
    for stage, cut in enumerate(cuts[1:], start=1):
        assert bytes_kept(cut, sizes) <= naive_bytes(flow, stage, sizes)


@settings(max_examples=150, deadline=None)
@given(graphs(most=8))
def test_no_other_set_of_values_is_smaller(graph):
    nodes, exits, sizes = graph
    if (found := cut_up(graph)) is None:
        return
    flow, cuts = found

    def is_enough(stage, chosen):
        """Later exits can be made of `chosen` by later stages' nodes and by earlier ones that may run again."""
        there = {*chosen, *CONSTANTS}
        for index, node in enumerate(nodes):
            may_run = flow.owner.get(index, stage) >= stage or node.recompute == "freely"
            may_run |= not flow.non_constant.intersection(node.outputs)
            # What cannot be kept is made again by whatever makes it, unless that may never run again.
            may_run |= node.recompute == "if needed" and any(sizes[name] is None for name in node.outputs)
            if may_run and there.issuperset(node.inputs):
                there.update(node.outputs)
        return there.issuperset(exits[stage:])

    for stage, cut in enumerate(cuts[1:], start=1):
        assert is_enough(stage, cut.live_before)
        old = [name for name in (*INPUTS, *flow.producer) if sizes[name] is not None and flow.owner_of(name) < stage]
        old = [name for name in old if name in INPUTS or flow.producer[name] in flow.owner]
        smallest = min(
            sum(sizes[name].bytes_per_sample for name in chosen)
            for count in range(len(old) + 1)
            for chosen in combinations(old, count)
            if is_enough(stage, chosen)
        )
        if None in sizes.values():
            assert bytes_kept(cut, sizes) >= smallest
        else:
            assert bytes_kept(cut, sizes) == smallest


@given(graphs())
def test_what_is_asked_for_is_enough_to_split_with(graph):
    sizes = graph[2]
    if (found := cut_up(graph)) is None:
        return
    flow, cuts = found
    known = {}
    while unknown := carry_candidates(flow, known) - known.keys():
        known |= {name: sizes[name] for name in unknown}
    assert split(flow, known) == cuts


@given(graphs())
def test_a_refused_graph_has_an_exit_without_work_or_without_input(graph):
    nodes, exits, _ = graph
    try:
        DataflowGraph(nodes, inputs=INPUTS, exits=exits)
    except CompileError:
        pass
    else:
        return
    done = set()
    for name in exits:
        needed = ancestors([name], nodes)
        if not any(set(INPUTS).intersection(nodes[index].inputs) for index in needed):
            return
        if not any(index not in done and depends_on_input(index, nodes) for index in needed):
            return
        done |= needed
    pytest.fail("every exit adds work and depends on an input")


def depends_on_input(index, nodes):
    return any(set(INPUTS).intersection(nodes[a].inputs) for a in ancestors(nodes[index].outputs, nodes))


def test_a_value_that_cannot_be_kept_and_not_be_made_again_is_named_with_its_node():
    nodes = [GraphNode(("in0",), ("a",), label="MatMul 'mix'"), GraphNode(("a",), ("e",)), GraphNode(("a",), ("f",))]
    flow = DataflowGraph(nodes, inputs=("in0",), exits=["e", "f"])
    with pytest.raises(CompileError, match=r"stage 1 needs 'a', which MatMul 'mix' of stage 0 produces; it cannot"):
        split(flow, {"in0": CarryCandidate(4), "a": None})


@pytest.mark.parametrize(
    ("exits", "match"),
    [
        (["b", "a"], r"exit 'a' adds no work after 'b'.*shallow to deep \(a, b\)"),
        (["b", "same"], "exits 'b' and 'same' are the same value"),
        (["a", "k"], "exit 'k' depends on no input"),
    ],
)
def test_exits_that_are_none(exits, match):
    nodes = [
        GraphNode(("in0",), ("a",)),
        GraphNode(("a",), ("b",)),
        GraphNode(("b",), ("same",), is_alias=True),
        GraphNode(("w0",), ("k",)),
    ]
    with pytest.raises(CompileError, match=match):
        DataflowGraph(nodes, inputs=("in0",), exits=exits)
