"""Builds the graph of one stage from the nodes of its plan."""

import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.extract import extract, values_read_by
from edgeexit.compiler.graph import names_in, unique_name
from edgeexit.compiler.splitting.plan import Carry, SplitPlan
from edgeexit.compiler.splitting.symbolic_shapes import replace_shape_node


def build_stage(model: ir.Model, plan: SplitPlan, index: int) -> ir.Model:
    """Return the graph of stage `index`; its weights are shared with `model`.

    Its inputs are the model inputs of the plan, then the carries. Its outputs are the carries, then the exit. The batch
    is the first axis of every carry.
    """
    graph, stage = model.graph, plan.stages[index]
    all_nodes = list(graph)
    nodes = [all_nodes[position] for position in stage.nodes]
    values = {str(value.name): value for value in graph.inputs}
    values |= {str(value.name): value for node in all_nodes for value in node.outputs}
    present = {
        *stage.inputs, *stage.carry_in, *graph.initializers, *(str(v.name) for node in nodes for v in node.outputs)
    }  # fmt: skip
    absent = dict.fromkeys(
        str(value.name) for node in nodes for value in values_read_by(node) if value.name not in present
    )
    built = extract(
        model,
        nodes,
        # Only Shape nodes read absent values; `replace_shape_node` replaces these nodes below.
        inputs=[values[name] for name in (*stage.inputs, *stage.carry_in, *absent)],
        outputs=[*(values[name] for name in stage.carry_out), graph.outputs[index]],
        name=f"stage{index}",
    )

    taken = names_in(built.graph)
    given = list(built.graph.inputs)
    first, last = len(stage.inputs), len(stage.inputs) + len(stage.carry_in)
    carried_in = zip(given[first:last], (plan.carries[name] for name in stage.carry_in), strict=True)
    inputs = [*given[:first], *(_input_carry(built.graph, value, carry, taken) for value, carry in carried_in)]
    for value in given[last:]:
        for node in [use.node for use in value.uses()]:
            replace_shape_node(built.graph, node, inputs, taken)
    *produced, exit_value = built.graph.outputs
    carried_out = zip(produced, (plan.carries[name] for name in stage.carry_out), strict=True)
    outputs = [*(_output_carry(built.graph, value, carry, taken) for value, carry in carried_out), exit_value]
    for current, wanted in ((built.graph.inputs, inputs), (built.graph.outputs, outputs)):
        current.clear()
        current.extend(wanted)
    return built


def _output_carry(graph: ir.Graph, value: ir.Value, carry: Carry, taken: set[str]) -> ir.Value:
    """Return the graph output for a carried value; a Transpose is added where the batch is not the first axis."""
    output = value
    if carry.batch_axis != 0:
        rank = len(carry.spec.shape)
        order = [carry.batch_axis, *(axis for axis in range(rank) if axis != carry.batch_axis)]
        node = ir.node("Transpose", [value], {"perm": order}, name=unique_name(f"{carry.spec.name}.out", taken))
        graph.append(node)
        output = node.outputs[0]
    _describe(output, carry.spec)
    return output


def _input_carry(graph: ir.Graph, value: ir.Value, carry: Carry, taken: set[str]) -> ir.Value:
    """Return the graph input for a carried value; a Transpose moves the batch back to its axis in the model."""
    received = value
    if carry.batch_axis != 0:
        received = ir.Value()
        order = [axis + 1 if axis < carry.batch_axis else axis for axis in range(len(carry.spec.shape))]
        order[carry.batch_axis] = 0
        node = ir.node("Transpose", [received], {"perm": order}, name=unique_name(f"{carry.spec.name}.in", taken))
        graph.insert_before(graph[0], node)
        back = node.outputs[0]
        back.name, back.type, back.shape = unique_name(f"{value.name}.back", taken), value.type, value.shape
        value.replace_all_uses_with(back)
    _describe(received, carry.spec)
    return received


def _describe(value: ir.Value, spec: TensorSpec) -> None:
    value.name = spec.name
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
    value.shape = ir.Shape(list(spec.shape))
