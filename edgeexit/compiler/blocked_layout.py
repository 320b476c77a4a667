"""Lets ONNX Runtime keep feature maps in the layout of its convolutions, where a cut or a slice would end that.

On x86-64 its float32 convolutions work on blocks of channels (NCHWc), add a shortcut and apply an activation in
passing, and hand blocks on to each other, but only where every operand of the sum is in blocks already. A carry never
is: it comes in as NCHW, like what was sliced or padded; then each sum from there on is a pass of its own between two
conversions. A pooling over a single pixel changes nothing, not even a NaN, and makes blocks of whatever it reads.
"""

import onnx_ir as ir

from edgeexit.compiler.graph import free_name, names_in

_BLOCK = 16  # channels, of the widest vector registers
_MAKES_BLOCKS = {"AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}
_KEEPS_BLOCKS = {"BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}
_RANK = 4


def keep_blocks(graph: ir.Graph) -> None:
    """Put a pooling over one pixel before a sum whose other operand a convolution made, where blocks would end.

    Values need their shapes. What is in blocks is told as ONNX Runtime tells it (`nchwc_transformer.cc`).
    """
    taken = names_in(graph)
    blocked: set[ir.Value] = set()
    for node in list(graph):
        operands = [value for value in node.inputs if value is not None]
        if node.domain or len(node.outputs) != 1:
            continue
        if node.op_type in _MAKES_BLOCKS or (node.op_type in _KEEPS_BLOCKS and operands[0] in blocked):
            blocked.update(value for value in node.outputs if _fits(value))
        elif node.op_type == "Add":
            outside = [value for value in operands if value not in blocked]
            if len(outside) == 1 and _fits(outside[0]) and _alike(*operands):
                blocked.add(_pool(graph, outside[0], taken))
                outside = []
            if not outside:
                blocked.update(node.outputs)


def _pool(graph: ir.Graph, value: ir.Value, taken: set[str]) -> ir.Value:
    """Pool a value; whatever adds or convolves it reads the result."""
    name = free_name(f"{value.name}.blocks", taken)
    pooled = ir.Value(name=name, type=value.type, shape=value.shape)
    node = ir.node(
        "AveragePool", [value], {"kernel_shape": [1, 1]}, outputs=[pooled], name=free_name(f"{name}.pool", taken)
    )
    readers = [use for use in value.uses() if use.node.op_type in {"Add", "Conv"} and use.node.graph is graph]
    first = value.producer()
    if first is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(first, node)
    for use in readers:
        use.node.replace_input_with(use.idx, pooled)
    return pooled


def _fits(value: ir.Value) -> bool:
    """Tell whether ONNX Runtime would hold a value in blocks."""
    shape = value.shape
    if value.dtype != ir.DataType.FLOAT or value.const_value is not None or shape is None or len(shape) != _RANK:
        return False
    return isinstance(shape[1], int) and shape[1] % _BLOCK == 0


def _alike(one: ir.Value, other: ir.Value) -> bool:
    """Tell whether two feature maps have one shape, as far as it is known."""
    return one.shape is not None and other.shape is not None and one.shape[1:] == other.shape[1:]
