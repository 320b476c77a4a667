"""Builds the graph of one stage from the nodes of its plan."""

import onnx_ir as ir

from edgeexit.compiler.extract import extract, values_read_by
from edgeexit.compiler.graph import names_in
from edgeexit.compiler.splitting.carry_shape import make_carry, restore_carry
from edgeexit.compiler.splitting.plan import SplitPlan
from edgeexit.compiler.symbolic_shapes import replace_shape_node


def build_stage(model: ir.Model, plan: SplitPlan, index: int) -> ir.Model:
    """Return the graph of stage `index`; its weights are shared with `model`.

    Its inputs are the model inputs of the plan, then the carries. Its outputs are the carries, the companions, then the
    exit. The batch is the first axis of every carry.
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
        outputs=[values[name] for name in (*stage.carry_out, *reversed(stage.targets))],
        name=f"stage{index}",
    )

    taken = names_in(built.graph)
    given = list(built.graph.inputs)
    first, last = len(stage.inputs), len(stage.inputs) + len(stage.carry_in)
    carried_in = zip(given[first:last], (plan.carries[name] for name in stage.carry_in), strict=True)
    inputs = [*given[:first], *(restore_carry(built.graph, value, carry, taken) for value, carry in carried_in)]
    for value in given[last:]:
        for node in [use.node for use in value.uses()]:
            replace_shape_node(built.graph, node, inputs, taken)
    returned = list(built.graph.outputs)
    produced, targets = returned[: len(stage.carry_out)], returned[len(stage.carry_out) :]
    carried_out = zip(produced, (plan.carries[name] for name in stage.carry_out), strict=True)
    outputs = [
        *(make_carry(built.graph, value, carry, inputs[0], taken) for value, carry in carried_out), *targets
    ]  # fmt: skip
    for current, wanted in ((built.graph.inputs, inputs), (built.graph.outputs, outputs)):
        current.clear()
        current.extend(wanted)
    return built
