"""Makes the convolutions and matrix products of a model int8: static, symmetric, with Q/DQ pairs from real samples."""

import tempfile
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxruntime.quantization import CalibrationDataReader, QDQQuantizer, QuantType, TensorsData, create_calibrator
from onnxruntime.quantization.calibrate import CalibrationMethod
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from edgeexit.compiler.graph import infer_shapes
from edgeexit.compiler.reasons import quietly, reason_of
from edgeexit.datasets import Dataset, check_finite
from edgeexit.errors import CompileError, DataError

Placement = Literal["before", "around"]
"""Where Q/DQ pairs stand. `before`: in front of each product alone, as TensorRT wants it, which then fuses what comes
after. `around`: behind convolutions too, because ONNX Runtime has no int8 convolution that gives floats. Both runtimes
take both."""

PRODUCTS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What is computed in int8. Everything else gains little by it and loses accuracy, above all norms and softmaxes."""

_CHANNELS: Final = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
_OTHER_FLOATS: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
_QUANTISED: Final = (*PRODUCTS, "Concat")
"""Before a Concat of feature maps as well: in dense networks its inputs are what crosses to later stages."""
_MAP_RANK: Final = 4
_FEW_SAMPLES: Final = 32
_GROUP: Final = 16
_GROUP_BYTES: Final = 16 << 20
_RULES: Final = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)


def to_int8(
    model: ir.Model,
    calibration: Dataset,
    *,
    kept: AbstractSet[ir.Node] = frozenset(),
    folder: Path,
    placement: Placement = "around",
    on_warning: Callable[[str], None] = lambda _: None,
) -> ir.Model:
    """Return an int8 form of a model without functions, whose nodes have names of their own; `model` is used up.

    Weights have a scale for every output channel, activations one; all zero points are 0, biases stay float32
    (TensorRT takes no int32 behind a DequantizeLinear), and so does what no product reads later, the exits above all.
    An activation's range is the mean of its extremes over groups of 16 samples: an outlier of a single sample does not
    coarsen it for all, which the extremes of everything would, and it is found in one pass that keeps no activations.

    Raises CompileError: the model is quantised already, nothing is to be quantised, or a range is not finite.
    DataError: calibration data with NaN or infinity.
    """
    _check(calibration, on_warning)
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        raise CompileError("the model is quantised already; compile it with --precision fp32, which keeps that")
    names = _fold_batch_norms(model, {str(node.outputs[0].name) for node in kept if node.outputs})
    _part_shared_weights(model.graph)
    left_out = [str(node.name) for node in model.graph if node.outputs[0].name in names or _is_odd(node)]
    with tempfile.TemporaryDirectory(dir=folder, prefix="int8.") as scratch:
        path = Path(scratch) / "model.onnx"
        ir.save(model, path, external_data="model.data")
        try:
            with quietly():
                quantised = _quantise(path, calibration, left_out, placement)
        except (CompileError, DataError, OSError):  # the last: a full disk
            raise
        except Exception as error:  # the quantiser raises many classes
            raise CompileError(f"the model cannot be quantised: {reason_of(error)}") from error
    if not any(node.op_type == "QuantizeLinear" for node in quantised.graph):
        raise CompileError(
            f"int8 has nothing to quantise: no {', '.join(PRODUCTS)} in float32 is left in the main graph; take fp32 "
            "or fp16, or bring the model in float32"
        )
    _drop_idle_pairs(quantised.graph)
    passes.RemoveUnusedNodesPass()(quantised)
    return quantised


class _Groups(CalibrationDataReader):  # type: ignore[misc]  # the base has no types
    """Hands groups of samples of nearly equal size to the calibrator."""

    def __init__(self, calibration: Dataset) -> None:
        sample_bytes = sum(array[0].nbytes for array in calibration.inputs.values())
        size = min(_GROUP, max(1, _GROUP_BYTES // max(1, sample_bytes)))
        groups = np.array_split(np.arange(len(calibration)), -(-len(calibration) // size))
        self._feeds: Iterator[dict[str, npt.NDArray[Any]]] = (
            {name: array[rows[0] : rows[-1] + 1] for name, array in calibration.inputs.items()} for rows in groups
        )

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next group, or None behind the last."""
        return next(self._feeds, None)


def _check(calibration: Dataset, on_warning: Callable[[str], None]) -> None:
    check_finite(calibration.inputs, where="calibration data")
    if len(calibration) < _FEW_SAMPLES:
        on_warning(f"{len(calibration)} calibration samples are few for the ranges of activations; give 100 or more")


def _fold_batch_norms(model: ir.Model, kept: set[str]) -> set[str]:
    """Fold batch norms into the products before them; return the names of what the kept nodes make afterwards."""
    for node in model.graph:
        if node.op_type in PRODUCTS and node.outputs[0].name in kept:
            kept |= {str(u.outputs[0].name) for u in node.outputs[0].consumers() if u.op_type == "BatchNormalization"}
    with quietly():
        rewrite(model, pattern_rewrite_rules=_RULES)
    for node in model.graph:
        node.name = node.name or f"{node.op_type}_{node.outputs[0].name}"
    infer_shapes(model)
    return kept


def _part_shared_weights(graph: ir.Graph) -> None:
    """Give a weight that products read along different channels a copy for each: its scales lie along one axis."""
    for weight in list(graph.initializers.values()):
        copies: dict[int, ir.Value] = {}
        for node, position in list(weight.uses()):
            axis = _channels(node)
            if axis is None or position != 1:
                continue
            if not copies:
                copies[axis] = weight
            elif axis not in copies:
                name = f"{weight.name}.channels{axis}"
                copies[axis] = ir.Value(name=name, type=weight.type, shape=weight.shape, const_value=weight.const_value)
                graph.register_initializer(copies[axis])
            node.replace_input_with(position, copies[axis])


def _channels(node: ir.Node) -> int | None:
    """Return the axis of a product's weight along which its output channels lie, or None for what is no product."""
    if node.op_type == "Gemm" and node.attributes.get_int("transB"):
        return 0
    return _CHANNELS.get(node.op_type)


def _is_odd(node: ir.Node) -> bool:
    """Return whether a node has a form that the quantiser gets wrong, or is a Concat of other things than maps."""
    if any(value.dtype in _OTHER_FLOATS for value in (*node.inputs, *node.outputs) if value is not None):
        return True  # the pairs' scales would be of that type, which the operator set does not have
    if node.op_type == "Concat":
        return node.outputs[0].shape is None or len(node.outputs[0].shape) < _MAP_RANK
    if node.op_type not in {"Gemm", "MatMul"}:
        return False
    second = node.inputs[1]
    if second is not None and second.is_initializer() and (second.shape is None or len(second.shape) != 2):  # noqa: PLR2004 - [in, out]
        return True  # ONNX Runtime has no such product with a scale for every channel
    beta = node.attributes.get("beta")
    if beta is not None and beta.as_float() != 1.0:  # it would be set to 1, as if the bias were quantised with it
        return True
    first = node.inputs[0]
    return first is not None and first.is_initializer()  # its scales would lie along the axis that is summed over


def _quantise(path: Path, calibration: Dataset, left_out: list[str], placement: Placement) -> ir.Model:
    """Calibrate and quantise a graph file, by the parts of `quantize_static`, which would use the system's folder."""
    calibrator = create_calibrator(
        path,
        _QUANTISED,
        augmented_model_path=str(path.with_name("augmented.onnx")),
        calibrate_method=CalibrationMethod.MinMax,
        use_external_data_format=True,
        extra_options={"moving_average": True},
    )
    calibrator.collect_data(_Groups(calibration))  # in one call, which takes the plain mean
    ranges: TensorsData = calibrator.compute_data()
    model = load_model_with_shape_infer(path)
    for name in (name for node in model.graph.node for name in (*node.input, *node.output) if name in ranges):
        if not np.isfinite(ranges[name].range_value).all():
            raise CompileError(f"'{name}' becomes NaN or infinite on the calibration data; it has no range in int8")
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=left_out,
        op_types_to_quantize=_QUANTISED,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "QDQDisableWeightAdjustForInt32Bias": True,  # which biases in float32 have no use for
            "OpTypesToExcludeOutputQuantization": [op for op in _QUANTISED if placement == "before" or op != "Conv"],
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: ir.Model = ir.from_proto(quantizer.model.model)
    return quantised


def _drop_idle_pairs(graph: ir.Graph) -> None:
    """Let what leads to no product read floats: the exits, and what stands between them and the last product."""
    leads: set[ir.Node] = set()
    for node in reversed(graph):
        if node.op_type in PRODUCTS or any(user in leads for value in node.outputs for user in value.consumers()):
            leads.add(node)
    for node in list(graph):
        source = _before_pair(node)
        if source is None:
            continue
        value = node.outputs[0]
        for user, position in list(value.uses()):
            if user not in leads:
                user.replace_input_with(position, source)
        for position, output in enumerate(graph.outputs):
            if output is value:
                name, value.name = str(value.name), f"{value.name}.dequantised"
                source.name = name
                graph.outputs[position] = source


def _before_pair(node: ir.Node) -> ir.Value | None:
    """Return the float behind which `node` ends a Q/DQ pair, or None where it does not."""
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    producer = node.inputs[0].producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "QuantizeLinear" else None
