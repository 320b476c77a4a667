"""Builds the graph of one stage from the nodes of its plan."""

import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.extract import extract, values_read_by
from edgeexit.compiler.graph import BATCH, names_in, unique_name
from edgeexit.compiler.splitting.plan import Carry, SplitPlan
from edgeexit.compiler.symbolic_shapes import replace_shape_node, size_tensor


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
    inputs = [*given[:first], *(_input_carry(built.graph, value, carry, taken) for value, carry in carried_in)]
    for value in given[last:]:
        for node in [use.node for use in value.uses()]:
            replace_shape_node(built.graph, node, inputs, taken)
    returned = list(built.graph.outputs)
    produced, targets = returned[: len(stage.carry_out)], returned[len(stage.carry_out) :]
    carried_out = zip(produced, (plan.carries[name] for name in stage.carry_out), strict=True)
    outputs = [
        *(_output_carry(built.graph, value, carry, inputs[0], taken) for value, carry in carried_out), *targets
    ]  # fmt: skip
    for current, wanted in ((built.graph.inputs, inputs), (built.graph.outputs, outputs)):
        current.clear()
        current.extend(wanted)
    return built


def _output_carry(graph: ir.Graph, value: ir.Value, carry: Carry, batch: ir.Value, taken: set[str]) -> ir.Value:
    """Return the graph output for a carried value: a dimension of its own for the batch, and this dimension first.

    `batch` is an input of the graph; its first dimension is the batch.
    """
    output, name = value, carry.spec.name
    if carry.batch.factors:
        unfolded = _unfolded(carry)
        # Reshape computes one dimension: the symbolic factor, or the batch if all factors are static.
        has_symbolic = any(isinstance(factor, str) for factor in carry.batch.factors)
        first, last = carry.batch.axis, carry.batch.axis + len(carry.batch.factors)
        sizes: list[int | tuple[ir.Value, int]] = []
        for axis, size in enumerate(unfolded):
            if first <= axis <= last and not isinstance(size, int):
                sizes.append((batch, 0) if size == BATCH and has_symbolic else -1)
            else:
                sizes.append(size if isinstance(size, int) else (value, axis if axis < first else axis - last + first))
        target, nodes = size_tensor(graph, sizes, f"{name}.out", taken)
        nodes.append(ir.node("Reshape", [value, target], name=unique_name(f"{name}.unfold", taken)))
        graph.extend(nodes)
        output = nodes[-1].outputs[0]
        output.name, output.type = unique_name(f"{name}.unfolded", taken), value.type
    order = _batch_first(carry)
    if order != sorted(order):
        node = ir.node("Transpose", [output], {"perm": order}, name=unique_name(f"{name}.out", taken))
        graph.append(node)
        output = node.outputs[0]
    _describe(output, carry.spec)
    return output


def _input_carry(graph: ir.Graph, value: ir.Value, carry: Carry, taken: set[str]) -> ir.Value:
    """Return the graph input for a carried value; it is given back the shape that it has in the model."""
    order, name = _batch_first(carry), carry.spec.name
    is_transposed = order != sorted(order)
    if not is_transposed and not carry.batch.factors:
        _describe(value, carry.spec)
        return value
    received = back = ir.Value()
    nodes: list[ir.Node] = []
    if is_transposed:
        inverse = [order.index(axis) for axis in range(len(order))]
        nodes.append(ir.node("Transpose", [received], {"perm": inverse}, name=unique_name(f"{name}.in", taken)))
        back = nodes[-1].outputs[0]
        back.name, back.type = unique_name(f"{name}.unfolded", taken), value.type
    if carry.batch.factors:
        first, last = carry.batch.axis, carry.batch.axis + len(carry.batch.factors)
        sizes: list[int | tuple[ir.Value, int]] = [
            size if isinstance(size, int) else (back, axis) for axis, size in enumerate(_unfolded(carry))
        ]
        sizes[first : last + 1] = [-1]
        target, more = size_tensor(graph, sizes, f"{name}.in", taken)
        nodes += [*more, ir.node("Reshape", [back, target], name=unique_name(f"{name}.fold", taken))]
        back = nodes[-1].outputs[0]
    graph.insert_before(graph[0], nodes)
    back.name, back.type, back.shape = unique_name(f"{value.name}.back", taken), value.type, value.shape
    value.replace_all_uses_with(back)
    _describe(received, carry.spec)
    return received


def _batch_first(carry: Carry) -> list[int]:
    """Return the permutation from the unfolded dimensions in the model's order to those of the carry."""
    first = carry.batch.axis
    at_batch = first + (carry.batch.outer != 1)
    folded = range(first, first + len(carry.batch.factors) + 1)
    others = [axis for axis in range(len(carry.spec.shape)) if axis not in folded]
    return [at_batch, *(axis for axis in folded if axis != at_batch), *others]


def _unfolded(carry: Carry) -> list[int | str]:
    """Return the dimensions of a carry in the model's order, with the batch as a dimension of its own."""
    order = _batch_first(carry)
    return [carry.spec.shape[order.index(axis)] for axis in range(len(order))]


def _describe(value: ir.Value, spec: TensorSpec) -> None:
    value.name = spec.name
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
    value.shape = ir.Shape(list(spec.shape))
