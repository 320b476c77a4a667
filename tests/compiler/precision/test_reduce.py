"""Nodes that stay in fp32 in a reduced precision, and engines that TensorRT builds from reduced models."""

import numpy as np
import onnx_ir as ir
import pytest

from edgeexit.compiler.export.model import export_model
from edgeexit.compiler.precision.reduce import reduce_precision
from edgeexit.datasets import Dataset
from edgeexit.errors import CompileError
from tests.compiler.precision.reduced_graphs import Encoder, Segmenter, read_text

TEXT = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,3] e0, float[N,3] e1) {
  h = MatMul(x, stem_weight) r = Relu(h) e0 = MatMul(r, head_weight) s = Softmax(h) e1 = MatMul(s, head_weight) }"""


@pytest.fixture
def model(tmp_path):
    return read_text(tmp_path, TEXT, stem_weight=(8, 8), head_weight=(8, 3))


def test_fp32_returns_the_model_itself(tmp_path, model):
    assert reduce_precision(model, "fp32", folder=tmp_path) is model
    with pytest.raises(CompileError, match="all nodes are in fp32"):
        reduce_precision(model, "fp32", folder=tmp_path, keep_fp32=["*"])


def test_the_original_model_is_not_changed(tmp_path, model):
    before = ir.to_proto(model).SerializeToString()
    reduce_precision(model, "fp16", folder=tmp_path)
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("Softmax", {"s"}),
        ("[st]*_weight", {"h"}),
        ("head*", {"e0", "e1"}),
        ("e?", {"e0", "e1"}),
        ("MatMul_h", {"h"}),
    ],
)
def test_patterns_match_names_operators_outputs_and_weights(tmp_path, model, pattern, kept):
    reduced = reduce_precision(model, "fp16", folder=tmp_path, keep_fp32=[pattern])
    wide = {
        str(value.name)
        for node in reduced.graph
        for value in node.outputs
        if node.op_type != "Cast" and value.dtype == ir.DataType.FLOAT
    }
    assert wide == kept


def test_a_pattern_without_a_match_is_rejected_with_some_existing_names(tmp_path, model):
    with pytest.raises(CompileError, match=r"'tail\*' matches no node.*'MatMul_h'.*Softmax"):
        reduce_precision(model, "fp16", folder=tmp_path, keep_fp32=["head*", "tail*"])


@pytest.fixture(scope="module")
def exported():
    """Two exported networks with samples; the export takes seconds, so it runs once."""
    rng = np.random.default_rng(0)
    images = {"image": rng.standard_normal((32, 3, 16, 16)).astype(np.float32)}
    mask = (np.arange(6) < rng.integers(2, 7, (32, 1))).astype(np.int64)
    texts = {"ids": rng.integers(0, 50, (32, 6)), "mask": mask}
    return {
        network.__name__: (export_model(network(), inputs=(), example=inputs, opset=18).model, Dataset(inputs=inputs))
        for network, inputs in ((Segmenter, images), (Encoder, texts))
    }


def build(path, inputs):
    """Compile a graph file for SM86 with TensorRT-RTX, strongly typed, and return the size of the engine."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    for name, array in inputs.items():
        profile.set_shape(name, *[(size, *array.shape[1:]) for size in (1, 4, 8)])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return 0 if engine is None else engine.nbytes


@pytest.mark.parametrize("network", ["Segmenter", "Encoder"])
@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("fp16", {}),
        ("fp16", {"keep_fp32": ["heads.*"]}),
        ("int8", {"placement": "before"}),
        ("int8", {"placement": "around", "keep_fp32": ["heads.*"]}),
    ],
    ids=["fp16", "fp16-mixed", "int8", "int8-mixed"],
)
def test_tensorrt_builds_the_reduced_model(tmp_path, exported, network, precision, options):
    model, calibration = exported[network]
    reduced = reduce_precision(model, precision, calibration=calibration, folder=tmp_path, **options)
    ir.save(reduced, tmp_path / "reduced.onnx")
    assert build(tmp_path / "reduced.onnx", calibration.inputs) > 0
