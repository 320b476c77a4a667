"""Upgrades a graph of an old operator set to opset 13, the oldest that the compiler processes.

The conversion is that of `onnx.version_converter`, and this pass corrects its Upsample and Resize. The caller must
compare the result with the original file, because the converter changes the results of rare operators (Hardmax).
"""

from typing import Final

import onnx
import onnx.version_converter
import onnx_ir as ir

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.graph import opset_of
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.errors import CompileError

MIN_OPSET: Final = 13
"""The oldest operator set that has the operators of the readout."""

_RESIZE_MODES_OPSET: Final = 11
"""Resize has `coordinate_transformation_mode` since this opset; before it, the mode was always asymmetric."""
_INLINE_BYTES: Final = 1024
"""The converter reads the values of small initializers (scales, axes). Larger ones are removed while it runs."""


def upgrade_opset(model: ir.Model) -> tuple[ir.Model, int | None]:
    """Return the model for opset 13, and its old operator set; the same model and None if that is not older.

    Weights are not copied.

    Raises CompileError if the converter cannot convert an operator.
    """
    if "ai.onnx" in model.opset_imports:  # an alias of the standard domain
        model.opset_imports[""] = model.opset_imports.pop("ai.onnx")
    version = opset_of(model)
    if version >= MIN_OPSET:
        return model, None
    advice = f"export the model with opset {MIN_OPSET} or newer"
    if model.functions:
        raise CompileError(f"the model has functions and opset {version}, which is too old; {advice}")
    large = _take_large_weights(model.graph)
    try:
        with silence_libraries():
            proto = onnx.version_converter.convert_version(ir.to_proto(model), MIN_OPSET)
        upgraded = ir.from_proto(proto)
    except Exception as error:  # the converter and protobuf raise unrelated classes
        reason = reason_of(error).rpartition(": ")[2]  # the converter's asserts begin with the place in its source
        raise CompileError(
            f"the model's opset {version} is too old and cannot be converted to {MIN_OPSET}: {reason}; {advice}"
        ) from error
    finally:
        _put_back(model.graph, large)
    _put_back(upgraded.graph, large)
    if version < _RESIZE_MODES_OPSET:
        _resize_asymmetrically(upgraded)
    return upgraded, version


def _take_large_weights(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Turn the large initializers of a graph into inputs; return their tensors by name.

    The converter serialises the model, which must stay below 2 GB.
    """
    large = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _INLINE_BYTES:
            large[name] = tensor
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            del graph.initializers[name]
            value.const_value = None
            if not value.is_graph_input():
                graph.inputs.append(value)
    return large


def _put_back(graph: ir.Graph, tensors: dict[str, ir.TensorProtocol]) -> None:
    """Turn the inputs with the names of `tensors` into initializers again."""
    for value in [value for value in graph.inputs if value.name in tensors]:
        graph.inputs.remove(value)
        value.const_value = tensors[str(value.name)]
        graph.register_initializer(value)


def _resize_asymmetrically(model: ir.Model) -> None:
    """Make Resize compute as before opset 11; the converter leaves the new default, `half_pixel`."""
    for graph in model.graphs():
        for node in graph:
            if node.op_type == "Resize" and node.domain == "":
                shrinks = any((scales.numpy() < 1).any() for scales in _scales_of(node))
                attributes = {
                    "coordinate_transformation_mode": "asymmetric",
                    "nearest_mode": "ceil" if shrinks else "floor",
                }
                for name, text in attributes.items():
                    node.attributes[name] = ir.AttrString(name, text)


def _scales_of(node: ir.Node) -> list[ir.TensorProtocol]:
    """Return the constant scales of a Resize node in a list, which is empty if they are computed."""
    tensors = (ir.convenience.get_const_tensor(value) for value in node.inputs[2:3] if value is not None)
    return [tensor for tensor in tensors if tensor is not None]
