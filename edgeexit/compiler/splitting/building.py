"""Builds the graph of one stage from its own nodes."""

import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.extract import extract, reads_of
from edgeexit.compiler.graph import free_name, names_in
from edgeexit.compiler.splitting.shapes import read_sizes_from
from edgeexit.compiler.splitting.stages import Carry, SplitPlan


def build_stage(model: ir.Model, plan: SplitPlan, stage: int) -> ir.Model:
    """Return the graph of one stage, self-contained but for the weights that it shares with the others."""
    graph, cut = model.graph, plan.cuts[stage]
    whole = list(graph)
    nodes = [whole[index] for index in cut.nodes]
    values = {str(value.name): value for value in graph.inputs}
    values |= {str(value.name): value for node in whole for value in node.outputs}
    present = {*cut.inputs, *cut.carry_in, *graph.initializers, *(str(v.name) for node in nodes for v in node.outputs)}
    absent = dict.fromkeys(str(value.name) for node in nodes for value in reads_of(node) if value.name not in present)
    built = extract(
        model,
        nodes,
        # Of what is absent nodes read nothing but the shape, which they find elsewhere.
        inputs=[values[name] for name in (*cut.inputs, *cut.carry_in, *absent)],
        outputs=[*(values[name] for name in cut.carry_out), graph.outputs[stage]],
        name=f"stage{stage}",
    )

    taken = names_in(built.graph)
    given = list(built.graph.inputs)
    first, last = len(cut.inputs), len(cut.inputs) + len(cut.carry_in)
    carried = zip(given[first:last], (plan.carries[name] for name in cut.carry_in), strict=True)
    reads = [*given[:first], *(_take_in(built.graph, value, carry, taken) for value, carry in carried)]
    for value in given[last:]:
        for node in [use.node for use in value.uses()]:
            read_sizes_from(built.graph, node, reads, taken)
    *made, exit_value = built.graph.outputs
    leaving = zip(made, (plan.carries[name] for name in cut.carry_out), strict=True)
    outputs = [*(_hand_out(built.graph, value, carry, taken) for value, carry in leaving), exit_value]
    for values_of, wanted in ((built.graph.inputs, reads), (built.graph.outputs, outputs)):
        values_of.clear()
        values_of.extend(wanted)
    return built


def _hand_out(graph: ir.Graph, value: ir.Value, carry: Carry, taken: set[str]) -> ir.Value:
    """Return what leaves a stage for a value that it makes: the same, batch first."""
    leaving = value
    if carry.batch_axis != 0:
        rank = len(carry.spec.shape)
        order = [carry.batch_axis, *(axis for axis in range(rank) if axis != carry.batch_axis)]
        node = ir.node("Transpose", [value], {"perm": order}, name=free_name(f"{carry.spec.name}.out", taken))
        graph.append(node)
        leaving = node.outputs[0]
    _describe(leaving, carry.spec)
    return leaving


def _take_in(graph: ir.Graph, value: ir.Value, carry: Carry, taken: set[str]) -> ir.Value:
    """Return what arrives, batch first, for an input of a stage that an earlier stage makes."""
    arriving = value
    if carry.batch_axis != 0:
        arriving = ir.Value()
        order = [axis + 1 if axis < carry.batch_axis else axis for axis in range(len(carry.spec.shape))]
        order[carry.batch_axis] = 0
        node = ir.node("Transpose", [arriving], {"perm": order}, name=free_name(f"{carry.spec.name}.in", taken))
        graph.insert_before(graph[0], node)
        back = node.outputs[0]
        back.name, back.type, back.shape = free_name(f"{value.name}.back", taken), value.type, value.shape
        value.replace_all_uses_with(back)
    _describe(arriving, carry.spec)
    return arriving


def _describe(value: ir.Value, spec: TensorSpec) -> None:
    value.name = spec.name
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
    value.shape = ir.Shape(list(spec.shape))
