"""Quantises the convolutions and matmuls of a model to int8, statically and symmetrically, with Q/DQ pairs."""

import tempfile
from collections.abc import Iterator, Sequence
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

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.graph import infer_shapes
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.datasets import Dataset, check_finite
from edgeexit.errors import CompileError, DataError
from edgeexit.progress import NO_PROGRESS, Progress

Placement = Literal["before", "around"]
"""Position of the Q/DQ pairs; both runtimes accept both placements.

`before`: only before each matmul or conv, so that TensorRT fuses the operators behind the matmul or conv into it.
`around`: behind convolutions too, because ONNX Runtime has no int8 convolution with a float output."""

INT8_OPERATORS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators computed in int8. Others gain little and lose accuracy, above all norms and softmax."""

_CHANNEL_AXIS: Final = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
_OTHER_FLOATS: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})  # not float32
_QUANTISED_OPERATORS: Final = (*INT8_OPERATORS, "Concat")
"""A Concat of feature maps, too: in densely connected networks its inputs are the carries."""
_MAP_RANK: Final = 4  # [N, C, H, W]
_FEW_SAMPLES: Final = 32  # fewer give a warning
_MAX_BATCH: Final = 16
_MAX_BATCH_BYTES: Final = 16 << 20
_BATCH_NORM_RULES: Final = (
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
    masks: Sequence[str] = (),
    progress: Progress = NO_PROGRESS,
) -> ir.Model:
    """Return a model in int8.

    Weights have one scale per output channel, and an activation has one scale. All zero points are 0. Biases stay
    float32, because TensorRT accepts no int32 input of a DequantizeLinear. Values on which no later matmul or conv
    depends stay float32, above all the exits. The range of an activation is its min and its max, each averaged over
    batches of at most 16 samples. So an outlier in one sample does not widen the range for all, and one pass without
    stored activations is enough.

    Args:
        model: a model without functions, whose nodes have unique names; it is changed.
        calibration: real samples; fewer than 32 give a warning.
        kept: nodes that stay in fp32.
        folder: folder for temporary files.
        placement: position of the Q/DQ pairs.
        masks: names of the inputs whose values may be minus infinity.
        progress: receives the warning.

    Raises CompileError if the model is already quantised, if there is nothing to quantise, if a range is not finite, or
    if ONNX Runtime's quantiser fails; DataError for calibration data with NaN or infinity.

    """
    _check_calibration(calibration, masks, progress)
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        raise CompileError(
            "the model is already quantised; compile it with --precision fp32, which keeps its int8 nodes"
        )
    names = _fold_batch_norms(model, {str(node.outputs[0].name) for node in kept if node.outputs})
    _split_shared_weights(model.graph)
    excluded = [str(node.name) for node in model.graph if node.outputs[0].name in names or _is_unsupported(node)]
    with tempfile.TemporaryDirectory(dir=folder, prefix="int8.") as scratch:
        path = Path(scratch) / "model.onnx"
        ir.save(model, path, external_data="model.data")
        try:
            with silence_libraries():
                quantised = _quantise(path, calibration, excluded, placement)
        except (CompileError, DataError, OSError):  # OSError: the disk is full
            raise
        except Exception as error:  # the quantiser raises many classes
            raise CompileError(f"the model cannot be quantised: {reason_of(error)}") from error
    if not any(node.op_type == "QuantizeLinear" for node in quantised.graph):
        raise CompileError(
            f"int8 has nothing to quantise: the main graph has no {', '.join(INT8_OPERATORS)} in float32, apart from "
            "nodes that --keep-fp32 keeps; use fp32 or fp16, or export the model in float32"
        )
    _bypass_redundant_qdq(quantised.graph)
    passes.RemoveUnusedNodesPass()(quantised)
    return quantised


class _CalibrationBatches(CalibrationDataReader):  # type: ignore[misc]  # the base class is untyped
    """Feeds the calibrator with batches of nearly equal size."""

    def __init__(self, calibration: Dataset) -> None:
        sample_bytes = sum(array[0].nbytes for array in calibration.inputs.values())
        size = min(_MAX_BATCH, max(1, _MAX_BATCH_BYTES // max(1, sample_bytes)))
        batches = np.array_split(np.arange(len(calibration)), -(-len(calibration) // size))
        self._feeds: Iterator[dict[str, npt.NDArray[Any]]] = (
            {name: array[rows[0] : rows[-1] + 1] for name, array in calibration.inputs.items()} for rows in batches
        )

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next batch, or None after the last one."""
        return next(self._feeds, None)


def _check_calibration(calibration: Dataset, masks: Sequence[str], progress: Progress) -> None:
    check_finite(calibration.inputs, where="calibration data", masks=masks)
    if len(calibration) < _FEW_SAMPLES:
        progress.warning(
            f"{len(calibration)} calibration samples are few for the ranges of activations; give about 128"
        )


def _fold_batch_norms(model: ir.Model, kept: set[str]) -> set[str]:
    """Fold batch norms into the matmul or conv before them.

    Return `kept`, the outputs of the nodes that stay in fp32, with the outputs of the batch norms folded into them: a
    folded node has the output of its batch norm.
    """
    for node in model.graph:
        if node.op_type in INT8_OPERATORS and node.outputs[0].name in kept:
            kept |= {str(u.outputs[0].name) for u in node.outputs[0].consumers() if u.op_type == "BatchNormalization"}
    with silence_libraries():
        rewrite(model, pattern_rewrite_rules=_BATCH_NORM_RULES)
    for node in model.graph:
        node.name = node.name or f"{node.op_type}_{node.outputs[0].name}"
    infer_shapes(model)
    return kept


def _split_shared_weights(graph: ir.Graph) -> None:
    """Copy a weight for each channel axis that its readers use, because the scales of a weight lie along one axis."""
    for weight in list(graph.initializers.values()):
        copies: dict[int, ir.Value] = {}
        for node, position in list(weight.uses()):
            axis = _channel_axis(node)
            if axis is None or position != 1:
                continue
            if not copies:
                copies[axis] = weight
            elif axis not in copies:
                name = f"{weight.name}.channels{axis}"
                copies[axis] = ir.Value(name=name, type=weight.type, shape=weight.shape, const_value=weight.const_value)
                graph.register_initializer(copies[axis])
            node.replace_input_with(position, copies[axis])


def _channel_axis(node: ir.Node) -> int | None:
    """Return the output channel axis of the weight of a matmul or conv, or None for another operator."""
    if node.op_type == "Gemm" and node.attributes.get_int("transB"):
        return 0
    return _CHANNEL_AXIS.get(node.op_type)


def _is_unsupported(node: ir.Node) -> bool:
    """Return True for a node that the quantiser converts incorrectly, and for a Concat that is not of feature maps."""
    if any(value.dtype in _OTHER_FLOATS for value in (*node.inputs, *node.outputs) if value is not None):
        return True  # Q/DQ operators support scales of that type only in newer opsets, or not at all
    if node.op_type == "Concat":
        return node.outputs[0].shape is None or len(node.outputs[0].shape) < _MAP_RANK
    if node.op_type not in {"Gemm", "MatMul"}:
        return False
    second = node.inputs[1]
    if second is not None and second.is_initializer() and (second.shape is None or len(second.shape) != 2):  # noqa: PLR2004 - [in, out]
        return True  # ONNX Runtime has no such matmul with a scale per channel
    beta = node.attributes.get("beta")
    if beta is not None and beta.as_float() != 1.0:
        return True  # the quantiser would set it to 1, as if it were folded into the bias
    first = node.inputs[0]
    return first is not None and first.is_initializer()  # its scales would lie along the axis that is summed


def _quantise(path: Path, calibration: Dataset, excluded: list[str], placement: Placement) -> ir.Model:
    """Calibrate and quantise a graph file.

    This calls the parts of ONNX Runtime's `quantize_static`, which itself would write to the system's temporary folder.
    """
    calibrator = create_calibrator(
        path,
        _QUANTISED_OPERATORS,
        augmented_model_path=str(path.with_name("augmented.onnx")),
        calibrate_method=CalibrationMethod.MinMax,
        use_external_data_format=True,
        extra_options={"moving_average": True},
    )
    calibrator.collect_data(_CalibrationBatches(calibration))  # one call, so that the moving average is the plain mean
    ranges: TensorsData = calibrator.compute_data()
    model = load_model_with_shape_infer(path)
    for name in (name for node in model.graph.node for name in (*node.input, *node.output) if name in ranges):
        if not np.isfinite(ranges[name].range_value).all():
            raise CompileError(
                f"'{name}' becomes NaN or infinite on the calibration data, so it has no int8 range; use fp32 or fp16, "
                "or change the model"
            )
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=excluded,
        op_types_to_quantize=_QUANTISED_OPERATORS,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "QDQDisableWeightAdjustForInt32Bias": True,  # not needed for float32 biases
            "OpTypesToExcludeOutputQuantization": [
                op for op in _QUANTISED_OPERATORS if placement == "before" or op != "Conv"
            ],
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: ir.Model = ir.from_proto(quantizer.model.model)
    return quantised


def _bypass_redundant_qdq(graph: ir.Graph) -> None:
    """Bypass the Q/DQ pairs of values on which no later matmul or conv depends: those near the exits."""
    leads_to_int8: set[ir.Node] = set()
    for node in reversed(graph):
        if node.op_type in INT8_OPERATORS or any(
            user in leads_to_int8 for value in node.outputs for user in value.consumers()
        ):
            leads_to_int8.add(node)
    for node in list(graph):
        source = _qdq_source(node)
        if source is None:
            continue
        value = node.outputs[0]
        for user, position in list(value.uses()):
            if user not in leads_to_int8:
                user.replace_input_with(position, source)
        for position, output in enumerate(graph.outputs):
            if output is value:
                name, value.name = str(value.name), f"{value.name}.dequantised"
                source.name = name
                graph.outputs[position] = source


def _qdq_source(node: ir.Node) -> ir.Value | None:
    """Return the float value that a Q/DQ pair quantises if `node` is the pair's DequantizeLinear, else None."""
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    producer = node.inputs[0].producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "QuantizeLinear" else None
