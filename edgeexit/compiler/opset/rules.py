"""Rewrites operators to an older version if a comparison of the ONNX schemas is not enough: one function per change."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

_REDUCTIONS: Final = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_ELEMENTWISE: Final = {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare"}
"""Reductions that change every element even if no axis is reduced."""
_16_BIT: Final = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_AXES_INPUT: Final = 3  # of Pad
_TO_THE_END: Final = np.iinfo(np.int64).max  # end of a Slice


class LoweringError(Exception):
    """An operator cannot be expressed in an older operator set; the message is the reason."""


Rule = Callable[[ir.Node], list[ir.Node] | None]
"""Changes a node in place and returns None, or returns nodes that replace it and produce its outputs by name."""


def _reduce(node: ir.Node) -> list[ir.Node] | None:
    """Opset 18: the axes became an input."""
    noop = node.attributes.pop("noop_with_empty_axes", None)
    axes = _constant(node, 1, "its axes are") if _has(node, 1) else None
    if axes is not None and axes.size:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.tolist())
    elif noop is not None and noop.as_int():
        if node.op_type in _ELEMENTWISE:
            raise LoweringError("noop_with_empty_axes was added in opset 18")
        return [_node("Identity", [node.inputs[0]], node)]
    node.resize_inputs(1)
    return None


def _pad(node: ir.Node) -> list[ir.Node] | None:
    """Opset 18: an input selects the axes to pad."""
    if not _has(node, _AXES_INPUT):
        return None
    data = node.inputs[0]
    if data is None or data.shape is None:
        raise LoweringError("the rank of its data is unknown")
    rank = len(data.shape)
    axes, pads = _constant(node, _AXES_INPUT, "its axes are"), _constant(node, 1, "its pads are")
    all_pads = np.zeros((2, rank), dtype=np.int64)
    all_pads[:, axes % rank] = pads.reshape(2, -1)
    constant = _make_constant(all_pads.reshape(-1), f"{node.outputs[0].name}.pads")
    inputs = [node.inputs[0], constant.outputs[0], *node.inputs[2:_AXES_INPUT]]
    return [constant, _node("Pad", inputs, node, node.attributes.values())]


def _split(node: ir.Node) -> list[ir.Node] | None:
    """Opset 18: the number of outputs became an attribute, and the last output may be smaller."""
    count = node.attributes.pop("num_outputs", None)
    data = node.inputs[0]
    if count is None or data is None:
        return None
    size = data.shape[node.attributes.get_int("axis", 0)] if data.shape is not None else None
    if not isinstance(size, int) or size % count.as_int():
        raise LoweringError(
            f"it splits a dimension of {size} into {count.as_int()} parts that may have different sizes"
        )
    return None


def _resize(node: ir.Node) -> list[ir.Node] | None:
    """Opset 19: half_pixel_symmetric was added."""
    if node.attributes.get_string("coordinate_transformation_mode", "") == "half_pixel_symmetric":
        raise LoweringError("coordinate_transformation_mode 'half_pixel_symmetric' was added in opset 19")
    return None


def _shape(node: ir.Node) -> list[ir.Node] | None:
    """Opset 15: start and end were added."""
    start, end = node.attributes.pop("start", None), node.attributes.pop("end", None)
    if start is None and end is None:
        return None
    name = str(node.outputs[0].name)
    full = ir.node("Shape", [node.inputs[0]], name=f"{name}.full")
    full.outputs[0].name = f"{name}.full"
    ends = np.array([_TO_THE_END if end is None else end.as_int()])
    first = _make_constant(np.array([0 if start is None else start.as_int()]), f"{name}.start")
    last = _make_constant(ends, f"{name}.end")
    return [full, first, last, _node("Slice", [full.outputs[0], first.outputs[0], last.outputs[0]], node)]


def _reshape(node: ir.Node) -> list[ir.Node] | None:
    """Opset 14: allowzero was added. It can be dropped unless a constant shape contains a zero."""
    zero = node.attributes.pop("allowzero", None)
    shape = node.inputs[1]
    if zero is not None and zero.as_int() and shape is not None:
        tensor = ir.convenience.get_const_tensor(shape)
        if tensor is not None and not np.all(tensor.numpy()):
            raise LoweringError("'allowzero' = 1 with a size of 0 was added in opset 14")
    return None


def _layer_normalization(node: ir.Node) -> list[ir.Node]:
    """Opset 17: LayerNormalization [..., D] -> [..., D] was added; replace it by its definition in the ONNX docs."""
    data, scale = node.inputs[0], node.inputs[1]
    steps = _Decomposition(node)
    if any(value.uses() for value in node.outputs[1:]):
        raise LoweringError(
            "it was added in opset 17, and its outputs Mean and InvStdDev, which are in use, are not replaced"
        )
    axes = _axes_from(data, node.attributes.get_int("axis", -1))
    wide = steps.as_float32(data)
    centred = steps.add("Sub", wide, steps.add("ReduceMean", wide, axes=axes))
    variance = steps.add("ReduceMean", steps.add("Mul", centred, centred), axes=axes)
    epsilon = steps.constant(node.attributes.get_float("epsilon", 1e-5), wide)
    normal = steps.add("Div", centred, steps.add("Sqrt", steps.add("Add", variance, epsilon)))
    normal = steps.as_type_of(normal, data)
    if _has(node, 2):
        normal = steps.add("Mul", normal, scale)
        return steps.finish("Add", normal, node.inputs[2])
    return steps.finish("Mul", normal, scale)


def _rms_normalization(node: ir.Node) -> list[ir.Node]:
    """Opset 23: RMSNormalization [..., D] -> [..., D] was added; replace it by its definition in the ONNX docs."""
    data, scale = node.inputs[0], node.inputs[1]
    steps = _Decomposition(node)
    axes = _axes_from(data, node.attributes.get_int("axis", -1))
    axes_value = steps.int64_list(axes)
    wide = steps.as_float32(data)
    square = steps.add("ReduceMean", steps.add("Mul", wide, wide), axes_value)
    epsilon = steps.constant(node.attributes.get_float("epsilon", 1e-5), wide)
    normal = steps.add("Div", wide, steps.add("Sqrt", steps.add("Add", square, epsilon)))
    normal = steps.as_type_of(normal, data)
    return steps.finish("Mul", normal, scale)


def _roi_align(node: ir.Node) -> list[ir.Node] | None:
    """Opset 16: coordinate_transformation_mode was added; its default differs from the old behaviour."""
    mode = node.attributes.pop("coordinate_transformation_mode", None)
    if mode is None or mode.as_string() != "output_half_pixel":
        raise LoweringError("coordinate_transformation_mode 'half_pixel' was added in opset 16")
    return None


def _grid_sample(node: ir.Node) -> list[ir.Node] | None:
    """Opset 20: the modes were renamed, and volumes [N, C, D, H, W] were added."""
    old_names = {"linear": "bilinear", "cubic": "bicubic"}
    mode = node.attributes.get_string("mode", "linear")
    node.attributes["mode"] = ir.AttrString("mode", old_names.get(mode, mode))
    data = node.inputs[0]
    if data is None or data.shape is None or len(data.shape) != 4:  # noqa: PLR2004 - [N, C, H, W]
        raise LoweringError("before opset 20 it supports only images [N, C, H, W]")
    return None


def _dft(_: ir.Node) -> list[ir.Node] | None:
    """Opset 20: the axis became an input, and its default changed."""
    raise LoweringError("its axis became an input in opset 20")


def _scatter(node: ir.Node) -> list[ir.Node] | None:
    """Opset 18: the reductions max and min were added."""
    if node.attributes.get_string("reduction", "none") in {"max", "min"}:
        raise LoweringError("reduction 'max' and 'min' were added in opset 18")
    return None


def _quantize(node: ir.Node) -> list[ir.Node] | None:
    """Opset 21: output_dtype was added, which sets the output type if there is no zero point."""
    if "output_dtype" in node.attributes and not _has(node, 2) and node.attributes["output_dtype"].as_int():
        dtype = ir.DataType(node.attributes.pop("output_dtype").as_int())
        scale = node.inputs[1]
        tensor = None if scale is None else ir.convenience.get_const_tensor(scale)
        if tensor is None:
            raise LoweringError("its scale is not a constant")
        zero = _make_constant(np.zeros(tensor.shape.numpy(), dtype.numpy()), f"{node.outputs[0].name}.zero")
        inputs = [*node.inputs[:2], zero.outputs[0]]
        return [zero, _node("QuantizeLinear", inputs, node, node.attributes.values())]
    node.attributes.pop("output_dtype", None)
    return None


RULES: Final[dict[tuple[str, int], Rule]] = {
    **{(f"Reduce{kind}", 18): _reduce for kind in _REDUCTIONS},
    ("Pad", 18): _pad,
    ("Split", 18): _split,
    ("Resize", 19): _resize,
    ("Shape", 15): _shape,
    ("Reshape", 14): _reshape,
    ("LayerNormalization", 17): _layer_normalization,
    ("RMSNormalization", 23): _rms_normalization,
    ("RoiAlign", 16): _roi_align,
    ("GridSample", 20): _grid_sample,
    ("DFT", 20): _dft,
    ("ScatterElements", 18): _scatter,
    ("ScatterND", 18): _scatter,
    ("QuantizeLinear", 21): _quantize,
}
"""(operator, opset that changed it) -> rule."""


class _Decomposition:
    """Collects the nodes that replace one node; their names begin with the name of its first output."""

    def __init__(self, node: ir.Node) -> None:
        self._node = node
        self._made: list[ir.Node] = []

    def add(self, op: str, *inputs: ir.Value | None, axes: Sequence[int] | None = None) -> ir.Value:
        name = f"{self._node.outputs[0].name}.{op}.{len(self._made)}"
        node = ir.node(op, inputs, None if axes is None else {"axes": axes}, name=name)
        node.outputs[0].name = name
        self._made.append(node)
        return node.outputs[0]

    def as_float32(self, value: ir.Value | None) -> ir.Value | None:
        """Return a value cast to float32 if it is a 16-bit float: squares may overflow, and sums lose small terms."""
        return self._cast(value, ir.DataType.FLOAT) if value is not None and value.dtype in _16_BIT else value

    def as_type_of(self, value: ir.Value, like: ir.Value | None) -> ir.Value:
        """Return a value cast to the type of `like` if that is a 16-bit float."""
        dtype = None if like is None else like.dtype
        return self._cast(value, dtype) if dtype in _16_BIT else value

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        result = self.add("Cast", value)
        self._made[-1].attributes["to"] = ir.AttrInt64("to", int(dtype))
        result.type = ir.TensorType(dtype)
        return result

    def constant(self, number: float, like: ir.Value | None) -> ir.Value:
        dtype = np.float32 if like is None or like.dtype is None else like.dtype.numpy()
        return self._append(np.array(number, dtype=dtype))

    def int64_list(self, axes: Sequence[int]) -> ir.Value:
        return self._append(np.array(axes, dtype=np.int64))

    def finish(self, op: str, *inputs: ir.Value | None) -> list[ir.Node]:
        return [*self._made, _node(op, inputs, self._node)]

    def _append(self, array: np.ndarray[Any, Any]) -> ir.Value:
        node = _make_constant(array, f"{self._node.outputs[0].name}.constant.{len(self._made)}")
        self._made.append(node)
        return node.outputs[0]


def _node(op: str, inputs: Sequence[ir.Value | None], replaced: ir.Node, attributes: Any = ()) -> ir.Node:
    """Return a node with the name of the node `replaced`, whose output has the name of that node's first output."""
    node = ir.Node("", op, inputs, list(attributes), num_outputs=1, name=replaced.name)
    node.outputs[0].name = replaced.outputs[0].name
    return node


def _make_constant(array: np.ndarray[Any, Any], name: str) -> ir.Node:
    node = ir.node("Constant", [], {"value": ir.Tensor(array, name=name)}, name=name)
    node.outputs[0].name = name
    return node


def _has(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _constant(node: ir.Node, index: int, what: str) -> np.ndarray[Any, Any]:
    """Return the value of a constant input. Raises LoweringError, which begins with `what`, if it is not constant."""
    value = node.inputs[index]
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise LoweringError(f"{what} not constant")
    return tensor.numpy()


def _axes_from(data: ir.Value | None, axis: int) -> list[int]:
    """Return the axes from `axis` to the last one, as negative numbers. Raises LoweringError for an unknown rank."""
    if axis < 0:
        return list(range(axis, 0))
    if data is None or data.shape is None:
        raise LoweringError("the rank of its data is unknown")
    return list(range(axis - len(data.shape), 0))
