"""Converts a value of the model to its carry in one stage, and the carry to the value in a later stage.

The first dimension of a carry is the batch, and dimensions that the model folds into the batch are apart. For example,
frames folded outside of the batch: value [frames * batch, C] <-> unfolded [frames, batch, C] <-> carry [batch, frames,
C]. The first step is a Reshape, the second one a Transpose.
"""

import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.graph import BATCH, unique_name
from edgeexit.compiler.splitting.plan import Carry
from edgeexit.compiler.symbolic_shapes import size_tensor


def make_carry(graph: ir.Graph, value: ir.Value, carry: Carry, batch: ir.Value, taken: set[str]) -> ir.Value:
    """Append the nodes that turn a value into its carry; return the carry, an output of the graph.

    `batch` is an input of the graph; its first dimension is the batch. `taken` are the names in the graph.
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


def restore_carry(graph: ir.Graph, value: ir.Value, carry: Carry, taken: set[str]) -> ir.Value:
    """Insert the nodes that turn a carry into the value; return the carry, an input of the graph.

    The new nodes replace the value. `taken` are the names in the graph.
    """
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
