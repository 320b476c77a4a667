"""The split of random graphs is correct, and carries as few bytes as an exhaustive search finds."""

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
def graphs(draw, max_nodes=14, *, uncarryable=True):
    """Draw nodes that read any earlier values, two to four exits, and the values that can be carried."""
    nodes, values = [], []
    for index in range(draw(st.integers(2, max_nodes))):
        inputs = draw(st.lists(st.sampled_from([*INPUTS, *CONSTANTS, *values]), min_size=1, max_size=3, unique=True))
        outputs = [f"v{index}.{output}" for output in range(draw(st.sampled_from((1, 1, 1, 2))))]
        recompute = draw(st.sampled_from(("freely", "freely", "if needed", "never")))
        nodes.append(
            GraphNode(
                tuple(inputs),
                tuple(outputs),
                recompute,
                stays_with_inputs=recompute == "freely" and draw(st.integers(0, 4)) == 0,
            )
        )
        values += outputs
    exits = draw(st.lists(st.sampled_from(values), min_size=2, max_size=4, unique=True))
    sizes = {name: CarryCandidate(draw(st.sampled_from(SIZES))) for name in (*INPUTS, *values)}
    if uncarryable:
        sizes |= {name: None for name in values if draw(st.integers(0, 9)) == 0}
    return nodes, sorted(exits, key=values.index), sizes


def split_or_none(graph):
    """Return the dataflow graph and its split, or None if the graph is rejected."""
    nodes, exits, sizes = graph
    try:
        flow = DataflowGraph(nodes, inputs=INPUTS, exits=exits)
        return flow, split(flow, sizes)
    except CompileError:
        return None


def compute(nodes, order, values):
    """Run nodes in order; a value is the hash of its name and of the values it was computed from."""
    for index in order:
        record = tuple(values[name] for name in nodes[index].inputs)
        values |= {name: hash((name, record)) for name in nodes[index].outputs}
    return values


def ancestors(wanted, nodes):
    producer = {value: index for index, node in enumerate(nodes) for value in node.outputs}
    found, pending = set(), list(wanted)
    while pending:
        index = producer.get(pending.pop())
        if index is not None and index not in found:
            found.add(index)
            pending += nodes[index].inputs
    return found


@given(graphs())
def test_the_composed_stages_compute_the_full_graph(graph):
    nodes, exits, _ = graph
    if (found := split_or_none(graph)) is None:
        return
    constants = {name: hash(name) for name in CONSTANTS}
    inputs = {name: hash(name) for name in INPUTS}
    full_model = compute(nodes, range(len(nodes)), constants | inputs)
    available = dict(inputs)
    for plan, exit_name in zip(found[1], exits, strict=True):
        # A KeyError here means that no earlier stage produces a live value.
        available = {name: available[name] for name in plan.live_before}
        made = compute(
            nodes,
            plan.nodes,
            constants | {name: available[name] for name in (*plan.inputs, *plan.carry_in)},
        )
        assert made[exit_name] == full_model[exit_name]
        available |= {name: made[name] for name in plan.carry_out}


@given(graphs(), st.data())
def test_each_stage_returns_the_companions_of_its_exit(graph, data):
    nodes, exits, sizes = graph
    values = [value for node in nodes for value in node.outputs]
    companions = {exit_name: [] for exit_name in exits}
    for number in range(data.draw(st.integers(1, 4))):
        source, exit_name = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(exits))
        nodes = [*nodes, GraphNode((source,), (f"c{number}",), "never")]
        sizes = sizes | {f"c{number}": CarryCandidate(1)}
        companions[exit_name].append(f"c{number}")
    try:
        flow = DataflowGraph(nodes, inputs=INPUTS, exits=exits, companions=companions)
        plans = split(flow, sizes)
    except CompileError:
        return
    constants = {name: hash(name) for name in CONSTANTS}
    full_model = compute(nodes, range(len(nodes)), constants | {name: hash(name) for name in INPUTS})
    available = {name: hash(name) for name in INPUTS}
    for plan, exit_name in zip(plans, exits, strict=True):
        given_here = {name: available[name] for name in (*plan.inputs, *plan.carry_in)}
        made = compute(nodes, plan.nodes, constants | given_here)
        assert plan.targets == (exit_name, *companions[exit_name])
        assert {name: made[name] for name in plan.targets} == {name: full_model[name] for name in plan.targets}
        available |= {name: made[name] for name in plan.carry_out}
    runs = [index for plan in plans for index in plan.nodes if not flow.non_constant.isdisjoint(nodes[index].outputs)]
    assert not [index for index in set(runs) if nodes[index].recompute == "never" and runs.count(index) > 1]


@given(graphs())
def test_expensive_nodes_run_in_one_stage_and_only_needed_nodes_run(graph):
    nodes, exits, sizes = graph
    if (found := split_or_none(graph)) is None:
        return
    flow, plans = found
    runs = [index for plan in plans for index in plan.nodes if not flow.non_constant.isdisjoint(nodes[index].outputs)]
    assert {index for index, node in enumerate(nodes) if node.recompute == "never" and runs.count(index) > 1} == set()
    if None not in sizes.values():
        assert all(nodes[index].recompute == "freely" for index in set(runs) if runs.count(index) > 1)
        expensive = {index for index in ancestors(exits, nodes) if nodes[index].recompute != "freely"}
        assert {index for index in expensive if not flow.non_constant.isdisjoint(nodes[index].outputs)} <= set(runs)
    assert set(runs) <= ancestors(exits, nodes)


@given(graphs())
def test_a_carry_has_one_producer_and_is_live_up_to_its_last_reader(graph):
    if (found := split_or_none(graph)) is None:
        return
    _, plans = found
    carries = [name for plan in plans for name in plan.carry_out]
    assert len(carries) == len(set(carries))
    for k, plan in enumerate(plans):
        read_from_here = {name for later in plans[k:] for name in (*later.inputs, *later.carry_in)}
        made_before = {name for earlier in plans[:k] for name in earlier.carry_out}.union(INPUTS)
        assert k == 0 or set(plan.live_before) == read_from_here & made_before


def live_bytes(plan, sizes):
    return sum(sizes[name].bytes_per_sample for name in plan.live_before)


def bytes_without_recomputation(flow, stage, sizes):
    """Return the bytes of all values that later stages read from earlier ones if nothing is recomputed."""
    live = set()
    for index, owner in flow.owner.items():
        if owner >= stage:
            live |= {v for v in flow.nodes[index].inputs if v in flow.non_constant and flow.owner_of(v) < stage}
            live |= {v for v in flow.nodes[index].inputs if v in flow.inputs}
    return sum(sizes[name].bytes_per_sample for name in live)


@given(graphs(uncarryable=False))
def test_recomputing_never_increases_the_live_bytes(graph):
    sizes = graph[2]
    if (found := split_or_none(graph)) is None:
        return
    flow, plans = found
    for stage, plan in enumerate(plans[1:], start=1):
        assert live_bytes(plan, sizes) <= bytes_without_recomputation(flow, stage, sizes)


@settings(max_examples=150, deadline=None)
@given(graphs(max_nodes=8))
def test_no_other_set_of_values_has_fewer_bytes(graph):
    nodes, exits, sizes = graph
    if (found := split_or_none(graph)) is None:
        return
    flow, plans = found

    def is_enough(stage, chosen):
        """Return True if the later exits can be computed from `chosen`, with recomputation of earlier nodes."""
        available = {*chosen, *CONSTANTS}
        for index, node in enumerate(nodes):
            can_run = flow.owner.get(index, stage) >= stage or node.recompute == "freely"
            can_run |= not flow.non_constant.intersection(node.outputs)
            # A value that cannot be carried is recomputed, unless its producer may never be recomputed.
            can_run |= node.recompute == "if needed" and any(sizes[name] is None for name in node.outputs)
            if can_run and available.issuperset(node.inputs):
                available.update(node.outputs)
        return available.issuperset(exits[stage:])

    for stage, plan in enumerate(plans[1:], start=1):
        assert is_enough(stage, plan.live_before)
        earlier = [
            name for name in (*INPUTS, *flow.producer) if sizes[name] is not None and flow.owner_of(name) < stage
        ]
        earlier = [name for name in earlier if name in INPUTS or flow.producer[name] in flow.owner]
        smallest = min(
            sum(sizes[name].bytes_per_sample for name in chosen)
            for count in range(len(earlier) + 1)
            for chosen in combinations(earlier, count)
            if is_enough(stage, chosen)
        )
        if None in sizes.values():
            assert live_bytes(plan, sizes) >= smallest
        else:
            assert live_bytes(plan, sizes) == smallest


@given(graphs())
def test_the_carry_candidates_are_enough_for_the_split(graph):
    sizes = graph[2]
    if (found := split_or_none(graph)) is None:
        return
    flow, plans = found
    known = {}
    while unknown := carry_candidates(flow, known) - known.keys():
        known |= {name: sizes[name] for name in unknown}
    assert split(flow, known) == plans


@given(graphs())
def test_a_rejected_graph_has_an_exit_that_adds_no_node_or_depends_on_no_input(graph):
    nodes, exits, _ = graph
    try:
        DataflowGraph(nodes, inputs=INPUTS, exits=exits)
    except CompileError:
        pass
    else:
        return
    seen = set()
    for name in exits:
        needed = ancestors([name], nodes)
        if not any(set(INPUTS).intersection(nodes[index].inputs) for index in needed):
            return
        if not any(index not in seen and depends_on_input(index, nodes) for index in needed):
            return
        seen |= needed
    pytest.fail("every exit adds a node and depends on an input")


def depends_on_input(index, nodes):
    return any(set(INPUTS).intersection(nodes[a].inputs) for a in ancestors(nodes[index].outputs, nodes))


def test_a_value_that_can_be_neither_carried_nor_recomputed_is_named_with_its_node():
    nodes = [GraphNode(("in0",), ("a",), label="MatMul 'mix'"), GraphNode(("a",), ("e",)), GraphNode(("a",), ("f",))]
    flow = DataflowGraph(nodes, inputs=("in0",), exits=["e", "f"])
    with pytest.raises(CompileError, match=r"stage 1 needs 'a', which MatMul 'mix' of stage 0 produces; it cannot"):
        split(flow, {"in0": CarryCandidate(4), "a": None})


@pytest.mark.parametrize(
    ("exits", "match"),
    [
        (["b", "a"], "exit 'a' adds no node after 'b': earlier exits need all of its nodes; select exits with --exits"),
        (["b", "same"], "exits 'b' and 'same' are the same value"),
        (["a", "k"], "exit 'k' depends on no input"),
    ],
)
def test_invalid_exits_are_rejected(exits, match):
    nodes = [
        GraphNode(("in0",), ("a",)),
        GraphNode(("a",), ("b",)),
        GraphNode(("b",), ("same",), is_alias=True),
        GraphNode(("w0",), ("k",)),
    ]
    with pytest.raises(CompileError, match=match):
        DataflowGraph(nodes, inputs=("in0",), exits=exits)
