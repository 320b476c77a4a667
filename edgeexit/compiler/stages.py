"""From a normalised graph to one graph a stage: decides what may be carried, and builds the pieces."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.graph import bodies
from edgeexit.compiler.inputs import BATCH
from edgeexit.compiler.macs import is_product
from edgeexit.compiler.shapes import read_batch_from, root_shapes
from edgeexit.compiler.split import Cut, Node, split
from edgeexit.errors import CompileError
from edgeexit.manifest import TensorSpec

PROBE_BATCHES: Final = (2, 3)
"""Sizes of the two batches that tell which dimension of a value is the batch."""

_ANY = "any"  # a dimension of which nothing is known
_COPIED = {"Identity", "DequantizeLinear"}
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Value name -> dtype name and shape, in one run."""


class Carry(NamedTuple):
    """A value that crosses from one stage to later ones, batch first."""

    spec: TensorSpec
    """How it crosses: transposed, under a name of its own, where the graph has the batch on a later axis."""
    batch_axis: int


class Plan(NamedTuple):
    """The split of a graph."""

    cuts: tuple[Cut, ...]
    carries: dict[str, Carry]
    """By the value's name in the graph."""


def check_exits(graph: ir.Graph) -> None:
    """Raise CompileError for an exit that adds no work after the one before it, or that depends on no input."""
    _cut(graph, remade=set())


def plan_stages(graph: ir.Graph, look: Callable[[Sequence[str]], Sequence[Shapes]]) -> Plan:
    """Decide the stages of a normalised graph, which may get other Shape nodes on the way.

    The runtime drops the samples that have left, so a value crosses a cut only when it has a row a sample. Whatever
    has not (shapes, masks for all) is made again in the stages that need it, from values that have.

    Args:
        graph: the whole model.
        look: runs the model on batches of `PROBE_BATCHES` samples and returns the shapes of the values it is asked for.

    Raises CompileError where a value without rows would cost a convolution or matrix product to make again.

    """
    only_batch_varies = all(isinstance(size, int) for value in graph.inputs for size in list(value.shape or ())[1:])
    carries: dict[str, Carry | None] = {}
    while True:
        nodes, cuts = _cut(graph, remade={name for name, carry in carries.items() if carry is None})
        if root_shapes(graph, _read_for_shape_alone(graph, cuts)):
            continue
        unknown = [name for cut in cuts for name in cut.carry_out if name not in carries]
        if not unknown:
            break
        first, second = look(unknown)
        for name in unknown:
            seen = first.get(name), second.get(name)
            carries[name] = _carry(name, seen, _shape(graph, name), only_batch_varies=only_batch_varies)
    _refuse_dear_copies(graph, nodes, cuts)
    return Plan(cuts, {name: carry for name, carry in carries.items() if carry is not None})


def build_stage(model: ir.Model, plan: Plan, stage: int) -> ir.Model:
    """Return the graph of one stage, self-contained but for the weights that it shares with the others."""
    cut = plan.cuts[stage]
    built = model.clone()
    graph = built.graph
    exit_value = graph.outputs[stage]
    graph.outputs.clear()
    values = {str(value.name): value for value in (*graph.inputs, *(out for node in graph for out in node.outputs))}

    for name in cut.carry_out:
        _hand_out(graph, values[name], plan.carries[name])
    arriving = [_take_in(graph, values[name], plan.carries[name]) for name in cut.carry_in]
    graph.outputs.append(exit_value)
    reads = [value for value in graph.inputs if value.name in cut.inputs]
    graph.inputs.clear()
    graph.inputs.extend([*reads, *arriving])
    passes.RemoveUnusedNodesPass()(built)
    passes.RemoveUnusedFunctionsPass()(built)  # type: ignore[no-untyped-call]
    passes.RemoveUnusedOpsetsPass()(built)
    if arriving:
        read_batch_from(graph, arriving[0])
    passes.TopologicalSortPass()(built)
    graph.name = f"stage{stage}"
    return built


def _cut(graph: ir.Graph, *, remade: set[str]) -> tuple[list[Node], tuple[Cut, ...]]:
    nodes = _describe(graph, remade)
    inputs = [str(value.name) for value in graph.inputs]
    return nodes, split(nodes, inputs=inputs, exits=[str(value.name) for value in graph.outputs])


def _describe(graph: ir.Graph, remade: set[str]) -> list[Node]:
    """Return the graph as splitting sees it; nodes that make a value of `remade` are copied, as are constant ones."""
    described = []
    variable = {str(value.name) for value in graph.inputs}
    for node in graph:
        reads = tuple(str(value.name) for value in _reads(node))
        makes = tuple(str(value.name) for value in node.outputs if value.name)
        constant = node.op_type not in _RANDOM and not variable.intersection(reads)
        if not constant:
            variable.update(makes)
        copied = constant or (node.op_type in _COPIED and node.domain == "") or not remade.isdisjoint(makes)
        described.append(Node(reads, makes, copied))
    return described


def _reads(node: ir.Node) -> list[ir.Value]:
    """Return what a node needs: its inputs, and what its bodies capture, at any depth."""
    reads = dict.fromkeys(value for value in node.inputs if value is not None)
    for body in bodies(node):
        own = {*body.inputs, *body.initializers.values(), *(value for inner in body for value in inner.outputs)}
        for inner in body:
            reads |= dict.fromkeys(value for value in _reads(inner) if value not in own)
    return list(reads)


def _read_for_shape_alone(graph: ir.Graph, cuts: Sequence[Cut]) -> set[str]:
    """Return the carried values of which later stages read nothing but the shape."""
    nodes = list(graph)
    carried = {name for cut in cuts for name in cut.carry_in}
    for cut in cuts:
        for index in cut.nodes:
            if nodes[index].op_type != "Shape":
                carried -= {str(value.name) for value in _reads(nodes[index])}.intersection(cut.carry_in)
    return carried


def _shape(graph: ir.Graph, name: str) -> ir.Shape | None:
    return next(value.shape for node in graph for value in node.outputs if value.name == name)


def _carry(
    name: str,
    seen: tuple[tuple[str, tuple[int, ...]] | None, tuple[str, tuple[int, ...]] | None],
    inferred: ir.Shape | None,
    *,
    only_batch_varies: bool,
) -> Carry | None:
    """Say how a value crosses, from its shapes in two batches of `PROBE_BATCHES`, or None: not by rows."""
    first, second = seen
    if first is None or second is None or len(first[1]) != len(second[1]):
        return None
    sizes = list(zip(first[1], second[1], strict=True))
    if PROBE_BATCHES not in sizes:
        return None
    batch_axis = sizes.index(PROBE_BATCHES)
    known = (
        list(inferred) if inferred is not None and len(inferred) == len(sizes) else [ir.SymbolicDim(None)] * len(sizes)
    )
    shape = [_size(pair, size, only_batch_varies=only_batch_varies) for pair, size in zip(sizes, known, strict=True)]
    del shape[batch_axis]
    crossing = name if batch_axis == 0 else f"{name}.batch_first"
    return Carry(TensorSpec(name=crossing, dtype=first[0], shape=(BATCH, *shape)), batch_axis)


def _size(seen: tuple[int, int], inferred: int | ir.SymbolicDim, *, only_batch_varies: bool) -> int | str:
    """Return a dimension's size, or a word where it may differ at run time."""
    if isinstance(inferred, int):
        return inferred
    if inferred.value is not None:
        return inferred.value
    return seen[0] if only_batch_varies and seen[0] == seen[1] else _ANY


def _refuse_dear_copies(graph: ir.Graph, described: Sequence[Node], cuts: Sequence[Cut]) -> None:
    nodes = list(graph)
    first: dict[int, int] = {}
    constants = {str(value.name) for value in graph.initializers.values()}
    for stage, cut in enumerate(cuts):
        for index in cut.nodes:
            if constants.issuperset(described[index].reads):
                constants.update(described[index].makes)
            elif first.setdefault(index, stage) < stage and is_product(nodes[index]):
                raise CompileError(
                    f"stage {stage} needs '{described[index].makes[0]}', which stage {first[index]} makes in a "
                    f"{nodes[index].op_type} and which has no dimension for the batch alone; keep the batch a "
                    "dimension of its own where the exits branch off"
                )


def _hand_out(graph: ir.Graph, value: ir.Value, carry: Carry) -> None:
    """Make a value an output of a stage, batch first."""
    if carry.batch_axis == 0:
        leaving = value
    else:
        rank = len(carry.spec.shape)
        order = [carry.batch_axis, *(axis for axis in range(rank) if axis != carry.batch_axis)]
        node = ir.node("Transpose", [value], {"perm": order}, name=f"{carry.spec.name}.out")
        graph.append(node)
        leaving = node.outputs[0]
        leaving.name = carry.spec.name
    _describe_value(leaving, carry.spec)
    graph.outputs.append(leaving)


def _take_in(graph: ir.Graph, value: ir.Value, carry: Carry) -> ir.Value:
    """Let an input of a stage, batch first, stand for a value that an earlier stage makes; return the input."""
    arriving = ir.Value(name=carry.spec.name)
    _describe_value(arriving, carry.spec)
    replacement = arriving
    if carry.batch_axis != 0:
        order = [axis + 1 if axis < carry.batch_axis else axis for axis in range(len(carry.spec.shape))]
        order[carry.batch_axis] = 0
        node = ir.node("Transpose", [arriving], {"perm": order}, name=f"{carry.spec.name}.in")
        graph.append(node)
        replacement = node.outputs[0]
        replacement.name, replacement.type, replacement.shape = f"{value.name}.back", value.type, value.shape
    value.replace_all_uses_with(replacement)
    return arriving


def _describe_value(value: ir.Value, spec: TensorSpec) -> None:
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
    value.shape = ir.Shape(list(spec.shape))
