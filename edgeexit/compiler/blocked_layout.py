"""Keeps feature maps in the blocked layout of ONNX Runtime's convolutions after a cut, a slice or a pad.

On x86-64, ONNX Runtime's float32 convolutions use blocks of channels (NCHWc). They fuse the addition of a shortcut and
an activation, but only if both operands of the sum are in the blocked layout. A carry is in NCHW, as are the results of
a slice or a pad. After these, every sum is a separate pass between two layout conversions. An AveragePool over one
pixel changes no value, not even a NaN, and its output is in the blocked layout.
"""

import onnx_ir as ir

from edgeexit.compiler.graph import names_in, unique_name

_BLOCK = 16  # channels per block on processors with AVX-512; other processors use 8
_MAKES_BLOCKS = {"AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}
_KEEPS_BLOCKS = {"BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}
_RANK = 4


def keep_blocked_layout(graph: ir.Graph) -> None:
    """Insert an AveragePool over one pixel before each sum of which only one operand is in the blocked layout.

    Values without a known shape are skipped. ONNX Runtime's `nchwc_transformer.cc` has the same rules for which values
    are in the blocked layout.
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
            unblocked = [value for value in operands if value not in blocked]
            if len(unblocked) == 1 and _fits(unblocked[0]) and _same_shape(*operands):
                blocked.add(_pool(graph, unblocked[0], taken))
                unblocked = []
            if not unblocked:
                blocked.update(node.outputs)


def _pool(graph: ir.Graph, value: ir.Value, taken: set[str]) -> ir.Value:
    """Insert an AveragePool over one pixel between a value and the Add and Conv nodes that read it."""
    name = unique_name(f"{value.name}.blocks", taken)
    pooled = ir.Value(name=name, type=value.type, shape=value.shape)
    node = ir.node(
        "AveragePool", [value], {"kernel_shape": [1, 1]}, outputs=[pooled], name=unique_name(f"{name}.pool", taken)
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
    """Return True if ONNX Runtime can store a value in the blocked layout."""
    shape = value.shape
    if value.dtype != ir.DataType.FLOAT or value.const_value is not None or shape is None or len(shape) != _RANK:
        return False
    return isinstance(shape[1], int) and shape[1] % _BLOCK == 0


def _same_shape(one: ir.Value, other: ir.Value) -> bool:
    """Return True if two feature maps have the same known shape."""
    return one.shape is not None and other.shape is not None and one.shape[1:] == other.shape[1:]
