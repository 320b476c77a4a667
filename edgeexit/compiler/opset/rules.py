"""What an operator's newer form is in its older one, where ONNX's schemas do not tell: one function a change."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

_REDUCTIONS: Final = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_ELEMENTWISE: Final = {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare"}
"""Reductions that change each element even where they reduce nothing."""
_HALF: Final = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_AXES_INPUT: Final = 3  # of Pad
_SLICED: Final = np.iinfo(np.int64).max  # as far as there is something


class Refusal(Exception):  # noqa: N818 - an answer to the caller, which makes the error of it
    """Why an operator cannot be said in an older set."""


Rule = Callable[[ir.Node], list[ir.Node] | None]
"""Changes a node in place and returns None, or returns the nodes that make its outputs, by name, in its place."""


def _reduce(node: ir.Node) -> list[ir.Node] | None:
    """18: the axes became an input."""
    keep = node.attributes.pop("noop_with_empty_axes", None)
    axes = _constant(node, 1, "the axes are") if _has(node, 1) else None
    if axes is not None and axes.size:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.tolist())
    elif keep is not None and keep.as_int():
        if node.op_type in _ELEMENTWISE:
            raise Refusal("noop_with_empty_axes came with opset 18")
        return [_node("Identity", [node.inputs[0]], node)]
    node.resize_inputs(1)
    return None


def _pad(node: ir.Node) -> list[ir.Node] | None:
    """18: pads may be for some of the axes."""
    if not _has(node, _AXES_INPUT):
        return None
    data = node.inputs[0]
    if data is None or data.shape is None:
        raise Refusal("its data has no known rank")
    rank = len(data.shape)
    axes, pads = _constant(node, _AXES_INPUT, "the axes are"), _constant(node, 1, "the pads are")
    every = np.zeros((2, rank), dtype=np.int64)
    every[:, axes % rank] = pads.reshape(2, -1)
    constant = _make_constant(every.reshape(-1), f"{node.outputs[0].name}.pads")
    rest = [node.inputs[0], constant.outputs[0], *node.inputs[2:_AXES_INPUT]]
    return [constant, _node("Pad", rest, node, node.attributes.values())]


def _split(node: ir.Node) -> list[ir.Node] | None:
    """18: the number of outputs became an attribute, and the last of them may be smaller."""
    count = node.attributes.pop("num_outputs", None)
    data = node.inputs[0]
    if count is None or data is None:
        return None
    size = data.shape[node.attributes.get_int("axis", 0)] if data.shape is not None else None
    if not isinstance(size, int) or size % count.as_int():
        raise Refusal(f"it splits a dimension of {size} into {count.as_int()} parts that may differ")
    return None


def _resize(node: ir.Node) -> list[ir.Node] | None:
    """19: half_pixel_symmetric."""
    if node.attributes.get_string("coordinate_transformation_mode", "") == "half_pixel_symmetric":
        raise Refusal("coordinate_transformation_mode 'half_pixel_symmetric' came with opset 19")
    return None


def _shape(node: ir.Node) -> list[ir.Node] | None:
    """15: of some dimensions."""
    start, end = node.attributes.pop("start", None), node.attributes.pop("end", None)
    if start is None and end is None:
        return None
    name = str(node.outputs[0].name)
    whole = ir.node("Shape", [node.inputs[0]], name=f"{name}.whole")
    whole.outputs[0].name = f"{name}.whole"
    ends = np.array([_SLICED if end is None else end.as_int()])
    first = _make_constant(np.array([0 if start is None else start.as_int()]), f"{name}.start")
    last = _make_constant(ends, f"{name}.end")
    return [whole, first, last, _node("Slice", [whole.outputs[0], first.outputs[0], last.outputs[0]], node)]


def _reshape(node: ir.Node) -> list[ir.Node] | None:
    """14: a zero may mean zero; it is written of sizes that are never zero, but for one that is."""
    zero = node.attributes.pop("allowzero", None)
    shape = node.inputs[1]
    if zero is not None and zero.as_int() and shape is not None:
        tensor = ir.convenience.get_const_tensor(shape)
        if tensor is not None and not np.all(tensor.numpy()):
            raise Refusal("a size of zero came with opset 14")
    return None


def _layer_normalization(node: ir.Node) -> list[ir.Node]:
    """17: one operator for what had been nine. [..., D] -> [..., D], as the operator's text defines it."""
    data, scale = node.inputs[0], node.inputs[1]
    steps = _Steps(node)
    if any(value.uses() for value in node.outputs[1:]):
        raise Refusal("its mean and inverse deviation are read, which came with opset 17")
    axes = _axes_from(data, node.attributes.get_int("axis", -1))
    wide = steps.widened(data)
    centred = steps.add("Sub", wide, steps.add("ReduceMean", wide, axes=axes))
    variance = steps.add("ReduceMean", steps.add("Mul", centred, centred), axes=axes)
    epsilon = steps.constant(node.attributes.get_float("epsilon", 1e-5), wide)
    normal = steps.add("Div", centred, steps.add("Sqrt", steps.add("Add", variance, epsilon)))
    normal = steps.narrowed(normal, data)
    if _has(node, 2):
        normal = steps.add("Mul", normal, scale)
        return steps.end("Add", normal, node.inputs[2])
    return steps.end("Mul", normal, scale)


def _rms_normalization(node: ir.Node) -> list[ir.Node]:
    """23: one operator for what had been six. [..., D] -> [..., D]."""
    data, scale = node.inputs[0], node.inputs[1]
    steps = _Steps(node)
    axes = _axes_from(data, node.attributes.get_int("axis", -1))
    listed = steps.listed(axes)
    wide = steps.widened(data)
    square = steps.add("ReduceMean", steps.add("Mul", wide, wide), listed)
    epsilon = steps.constant(node.attributes.get_float("epsilon", 1e-5), wide)
    normal = steps.add("Div", wide, steps.add("Sqrt", steps.add("Add", square, epsilon)))
    normal = steps.narrowed(normal, data)
    return steps.end("Mul", normal, scale)


def _roi_align(node: ir.Node) -> list[ir.Node] | None:
    """16: the default is no longer what the operator did."""
    mode = node.attributes.pop("coordinate_transformation_mode", None)
    if mode is None or mode.as_string() != "output_half_pixel":
        raise Refusal("coordinate_transformation_mode 'half_pixel' came with opset 16")
    return None


def _grid_sample(node: ir.Node) -> list[ir.Node] | None:
    """20: other words for the modes, and volumes."""
    words = {"linear": "bilinear", "cubic": "bicubic"}
    mode = node.attributes.get_string("mode", "linear")
    node.attributes["mode"] = ir.AttrString("mode", words.get(mode, mode))
    data = node.inputs[0]
    if data is None or data.shape is None or len(data.shape) != 4:  # noqa: PLR2004 - [N, C, H, W]
        raise Refusal("before opset 20 it takes images [N, C, H, W] alone")
    return None


def _dft(_: ir.Node) -> list[ir.Node] | None:
    """20: the axis became an input with another default."""
    raise Refusal("its axis is told in another way since opset 20")


def _scatter(node: ir.Node) -> list[ir.Node] | None:
    """18: the largest and the smallest."""
    if node.attributes.get_string("reduction", "none") in {"max", "min"}:
        raise Refusal("reduction 'max' and 'min' came with opset 18")
    return None


def _quantize(node: ir.Node) -> list[ir.Node] | None:
    """21: the type may be said without a zero point."""
    if "output_dtype" in node.attributes and not _has(node, 2) and node.attributes["output_dtype"].as_int():
        dtype = ir.DataType(node.attributes.pop("output_dtype").as_int())
        scale = node.inputs[1]
        tensor = None if scale is None else ir.convenience.get_const_tensor(scale)
        if tensor is None:
            raise Refusal("the scale is no constant")
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
"""By operator and the opset that changed it."""


class _Steps:
    """Nodes that together make what one made, named after it."""

    def __init__(self, node: ir.Node) -> None:
        self._node = node
        self._made: list[ir.Node] = []

    def add(self, op: str, *inputs: ir.Value | None, axes: Sequence[int] | None = None) -> ir.Value:
        name = f"{self._node.outputs[0].name}.{op}.{len(self._made)}"
        node = ir.node(op, inputs, None if axes is None else {"axes": axes}, name=name)
        node.outputs[0].name = name
        self._made.append(node)
        return node.outputs[0]

    def widened(self, value: ir.Value | None) -> ir.Value | None:
        """Return a value of 16 bits in float32, in which squares do not overflow and sums keep small terms."""
        return self._cast(value, ir.DataType.FLOAT) if value is not None and value.dtype in _HALF else value

    def narrowed(self, value: ir.Value, like: ir.Value | None) -> ir.Value:
        """Return a value in 16 bits again, if `like` is."""
        dtype = None if like is None else like.dtype
        return self._cast(value, dtype) if dtype in _HALF else value

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        made = self.add("Cast", value)
        self._made[-1].attributes["to"] = ir.AttrInt64("to", int(dtype))
        made.type = ir.TensorType(dtype)
        return made

    def constant(self, number: float, like: ir.Value | None) -> ir.Value:
        dtype = np.float32 if like is None or like.dtype is None else like.dtype.numpy()
        return self._append(np.array(number, dtype=dtype))

    def listed(self, axes: Sequence[int]) -> ir.Value:
        return self._append(np.array(axes, dtype=np.int64))

    def end(self, op: str, *inputs: ir.Value | None) -> list[ir.Node]:
        return [*self._made, _node(op, inputs, self._node)]

    def _append(self, array: np.ndarray[Any, Any]) -> ir.Value:
        node = _make_constant(array, f"{self._node.outputs[0].name}.constant.{len(self._made)}")
        self._made.append(node)
        return node.outputs[0]


def _node(op: str, inputs: Sequence[ir.Value | None], instead: ir.Node, attributes: Any = ()) -> ir.Node:
    """Return a node whose result has the name of the first output of the one that it replaces."""
    made = ir.Node("", op, inputs, list(attributes), num_outputs=1, name=instead.name)
    made.outputs[0].name = instead.outputs[0].name
    return made


def _make_constant(array: np.ndarray[Any, Any], name: str) -> ir.Node:
    node = ir.node("Constant", [], {"value": ir.Tensor(array, name=name)}, name=name)
    node.outputs[0].name = name
    return node


def _has(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _constant(node: ir.Node, index: int, what: str) -> np.ndarray[Any, Any]:
    value = node.inputs[index]
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise Refusal(f"{what} no constant")
    return tensor.numpy()


def _axes_from(data: ir.Value | None, axis: int) -> list[int]:
    """Return the axes from `axis` to the last, counted from the end."""
    if axis < 0:
        return list(range(axis, 0))
    if data is None or data.shape is None:
        raise Refusal("its data has no known rank")
    return list(range(axis - len(data.shape), 0))
