"""The pure core of splitting, on random graphs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.compiler.split import Node, split
from edgeexit.errors import CompileError

INPUTS = ("in0", "in1")
CONSTANTS = ("w0", "w1")


@st.composite
def graphs(draw):
    """Nodes that read anything made before them, some copied, some with two outputs; and two to four exits."""
    nodes, values = [], []
    for index in range(draw(st.integers(2, 14))):
        reads = draw(st.lists(st.sampled_from([*INPUTS, *CONSTANTS, *values]), min_size=1, max_size=3, unique=True))
        makes = [f"v{index}.{output}" for output in range(draw(st.integers(1, 2)))]
        nodes.append(Node(tuple(reads), tuple(makes), draw(st.booleans()) and draw(st.booleans())))
        values += makes
    exits = draw(st.lists(st.sampled_from(values), min_size=2, max_size=4, unique=True))
    return nodes, sorted(exits, key=values.index)


def needed_for(wanted, nodes):
    """Return the indices of a value's ancestors."""
    maker = {value: index for index, node in enumerate(nodes) for value in node.makes}
    found, pending = set(), [wanted]
    while pending:
        index = maker.get(pending.pop())
        if index is not None and index not in found:
            found.add(index)
            pending += nodes[index].reads
    return found


def compute(nodes, order, values):
    """Run nodes in order on what is there; a value is the record of how it came about."""
    for index in order:
        record = tuple(values[name] for name in nodes[index].reads)
        values |= {name: hash((name, record)) for name in nodes[index].makes}
    return values


@given(graphs())
def test_the_stages_composed_are_the_whole_graph(graph):
    nodes, exits = graph
    try:
        cuts = split(nodes, inputs=INPUTS, exits=exits)
    except CompileError:
        return
    constants = {name: hash(name) for name in CONSTANTS}
    inputs = {name: hash(name) for name in INPUTS}
    whole = compute(nodes, range(len(nodes)), constants | inputs)
    carried = {}
    for cut, exit_name in zip(cuts, exits, strict=True):
        given_to_stage = {name: inputs[name] for name in cut.inputs} | {name: carried[name] for name in cut.carry_in}
        made = compute(nodes, cut.nodes, constants | given_to_stage)  # a KeyError: read before it is made
        assert made[exit_name] == whole[exit_name]
        carried |= {name: made[name] for name in cut.carry_out}


@given(graphs())
def test_every_needed_node_runs_once_and_nothing_else_runs_or_crosses(graph):
    nodes, exits = graph
    try:
        cuts = split(nodes, inputs=INPUTS, exits=exits)
    except CompileError:
        return
    runs = [index for cut in cuts for index in cut.nodes if not nodes[index].copied]
    needed = set().union(*(needed_for(name, nodes) for name in exits))
    assert sorted(runs) == sorted(index for index in needed if not nodes[index].copied)
    for position, cut in enumerate(cuts):
        assert set(cut.nodes) <= needed_for(exits[position], nodes)
        read_later = {name for later in cuts[position + 1 :] for name in later.carry_in}
        assert set(cut.carry_out) <= read_later
        read_here = {name for index in cut.nodes for name in nodes[index].reads} | {exits[position]}
        assert set(cut.carry_in) | set(cut.inputs) <= read_here


@given(graphs())
def test_a_refused_split_has_an_exit_without_work_or_without_input(graph):
    nodes, exits = graph
    try:
        split(nodes, inputs=INPUTS, exits=exits)
    except CompileError:
        pass
    else:
        return
    done = set()
    for name in exits:
        ancestors = needed_for(name, nodes)
        fresh = {index for index in ancestors if not nodes[index].copied} - done
        fed = any(set(INPUTS).intersection(nodes[index].reads) for index in ancestors)
        if not fresh or not fed:
            return
        done |= fresh
    pytest.fail("every exit adds work and depends on an input")


def test_a_value_crosses_over_any_distance_and_only_its_readers_take_it():
    nodes = [Node(("in0",), ("a",)), Node(("a",), ("b",)), Node(("b", "a"), ("c",))]
    cuts = split(nodes, inputs=("in0",), exits=["a", "b", "c"])
    assert [cut.carry_in for cut in cuts] == [(), ("a",), ("a", "b")]
    assert [cut.carry_out for cut in cuts] == [("a",), ("b",), ()]


def test_a_copied_node_moves_the_cut_up_to_what_it_reads():
    nodes = [Node(("in0",), ("q",)), Node(("q", "scale"), ("d",), copied=True), Node(("d",), ("e",))]
    nodes += [Node(("d",), ("f",))]
    first, second = split(nodes, inputs=("in0",), exits=["e", "f"])
    assert first.carry_out == second.carry_in == ("q",)
    assert second.nodes == (1, 3)


def test_an_exit_that_adds_nothing_is_named_with_the_one_before_it():
    nodes = [Node(("in0",), ("a",)), Node(("a",), ("b",))]
    with pytest.raises(CompileError, match=r"exit 'a' adds no work after 'b'.*shallow to deep"):
        split(nodes, inputs=("in0",), exits=["b", "a"])
