"""A small bundle for tests, built without torch: ONNX stages with readouts, and golden samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeexit.bundle import Bundle, GoldenSamples, bundle_folder, write_golden, write_manifest
from edgeexit.bundle.manifest import (
    PROBABILITIES_SUFFIX,
    READOUT_SUFFIX,
    TEMPERATURE_INPUT,
    Manifest,
    Proof,
    StageSpec,
    TensorSpec,
)
from edgeexit.targets import host_target

INPUT: Final = "x"
FEATURES: Final = 8
WIDTH: Final = 16
GOLDEN_SAMPLES: Final = 16

_OPSET: Final = 17
_IR_VERSION: Final = 9
_Array = npt.NDArray[np.float32]


def make_bundle(
    folder: Path,
    exits: int = 3,
    classes: int = 4,
    seed: int = 0,
    *,
    target: str | None = None,
    companions: bool = False,
) -> Bundle:
    """Write a bundle into the new folder `folder` and open it.

    The input `x` is [batch, 8] float32; the exits `e0`, `e1` ... have logits [batch, classes]. Every stage but the last
    carries its hidden tensor to the next one, and stage 0 carries its hidden tensor to all later stages. Another seed
    gives other weights and so another digest; the same arguments give the same bytes. The bundle has golden samples
    and no policy. With `companions`, every exit has the companions `corners` [batch, 2, 2] float32, which depends on
    the exit, and `feature` [batch] int64, the index of its largest hidden value.
    """
    generator = np.random.default_rng(seed)
    layers = [_Layer(generator, FEATURES if k == 0 else WIDTH, classes, depth=k) for k in range(exits)]
    golden = generator.standard_normal((GOLDEN_SAMPLES, FEATURES)).astype(np.float32)
    logits = _full_model(layers, golden)
    with bundle_folder(folder) as new:
        stages = []
        for k, layer in enumerate(layers):
            graph = _stage_graph(k, layer, last=k == exits - 1, companions=companions)
            onnx.save(graph, new / f"stage{k}.onnx")
            stages.append(
                StageSpec(
                    name=f"stage{k}",
                    file=f"stage{k}.onnx",
                    exit=TensorSpec(name=f"e{k}", dtype="float32", shape=("batch", classes)),
                    inputs=(INPUT,) if k == 0 else (),
                    carry_in=_carry_in(k),
                    carry_out=()
                    if k == exits - 1
                    else (TensorSpec(name=f"hidden{k}", dtype="float32", shape=("batch", WIDTH)),),
                    macs=layer.hidden.size + layer.head.size,
                    companions=_companions(k) if companions else {},
                )
            )
        write_golden(new, GoldenSamples(inputs={INPUT: golden}, exits=logits))
        write_manifest(
            new,
            Manifest(
                model="tiny",
                task="classification",
                target=target or host_target(),
                precision="fp32",
                opset=_OPSET,
                inputs=(TensorSpec(name=INPUT, dtype="float32", shape=("batch", FEATURES)),),
                classes=classes,
                stages=tuple(stages),
                proof=Proof(
                    samples=GOLDEN_SAMPLES,
                    source="random",
                    runtime="numpy (tests/bundles.py)",
                    absolute_tolerance=1e-4,
                    relative_tolerance=1e-4,
                    max_absolute_error=dict.fromkeys(logits, 0.0),
                ),
                tool_versions={"onnx": onnx.__version__},
                files={},
            ),
        )
    return Bundle.open(folder)


def make_samples(count: int, seed: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """Return inputs [count, 8] for a bundle of `make_bundle`."""
    return {INPUT: np.random.default_rng(seed).standard_normal((count, FEATURES)).astype(np.float32)}


class _Layer:
    """The weights of a stage; deeper exits have more confident predictions."""

    def __init__(self, generator: np.random.Generator, fan_in: int, classes: int, depth: int) -> None:
        self.hidden: _Array = (generator.standard_normal((fan_in, WIDTH)) / np.sqrt(fan_in)).astype(np.float32)
        self.bias: _Array = (0.1 * generator.standard_normal(WIDTH)).astype(np.float32)
        self.head: _Array = ((1 + depth) * generator.standard_normal((WIDTH, classes)) / np.sqrt(WIDTH)).astype(
            np.float32
        )


def _carry_in(k: int) -> tuple[str, ...]:
    if k == 0:
        return ()
    return ("hidden0",) if k == 1 else ("hidden0", f"hidden{k - 1}")


def _companions(k: int) -> dict[str, TensorSpec]:
    return {
        "corners": TensorSpec(name=f"corners{k}", dtype="float32", shape=("batch", 2, 2)),
        "feature": TensorSpec(name=f"feature{k}", dtype="int64", shape=("batch",)),
    }


def companions_of(bundle: Bundle, samples: Mapping[str, _Array]) -> list[dict[str, npt.NDArray[Any]]]:
    """Return the companions [N, ...] of every exit of a bundle of `make_bundle`, by ONNX's reference evaluator."""
    tensors: dict[str, npt.NDArray[Any]] = dict(samples)
    tensors[TEMPERATURE_INPUT] = np.ones(1, dtype=np.float32)
    found = []
    for stage in bundle.manifest.stages:
        evaluator = ReferenceEvaluator(onnx.load(bundle.path / stage.file))
        feeds = {name: tensors[name] for name in evaluator.input_names}
        tensors |= dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
        found.append({name: tensors[spec.name] for name, spec in stage.companions.items()})
    return found


def _full_model(layers: list[_Layer], x: _Array) -> dict[str, _Array]:
    logits: dict[str, _Array] = {}
    hidden: list[_Array] = []
    for k, layer in enumerate(layers):
        before = x if k == 0 else hidden[0] if k == 1 else hidden[0] + hidden[k - 1]
        hidden.append(np.maximum(before @ layer.hidden + layer.bias, 0))
        logits[f"e{k}"] = hidden[k] @ layer.head
    return logits


def _stage_graph(k: int, layer: _Layer, *, last: bool, companions: bool) -> onnx.ModelProto:
    sources = (INPUT,) if k == 0 else _carry_in(k)
    nodes = []
    before = sources[-1]
    if len(sources) > 1:
        nodes.append(helper.make_node("Add", sources, ["before"]))
        before = "before"
    nodes += [
        helper.make_node("Gemm", [before, "hidden_weight", "hidden_bias"], ["linear"]),
        helper.make_node("Relu", ["linear"], [f"hidden{k}"]),
        helper.make_node("MatMul", [f"hidden{k}", "head_weight"], [f"e{k}"]),
        *_readout_nodes(f"e{k}"),
    ]
    weights = [
        numpy_helper.from_array(layer.hidden, "hidden_weight"),
        numpy_helper.from_array(layer.bias, "hidden_bias"),
        numpy_helper.from_array(layer.head, "head_weight"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "two"),
        numpy_helper.from_array(np.array([1, 1], dtype=np.int64), "top2_split"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "class_axis"),
    ]
    if companions:
        nodes += [
            helper.make_node("Slice", [f"hidden{k}", "zero", "four", "class_axis"], ["first"]),
            helper.make_node("Reshape", ["first", "corner_shape"], [f"corners{k}"]),
            helper.make_node("ArgMax", [f"hidden{k}"], [f"feature{k}"], axis=1, keepdims=0),
        ]
        weights += [
            numpy_helper.from_array(np.array([0], dtype=np.int64), "zero"),
            numpy_helper.from_array(np.array([4], dtype=np.int64), "four"),
            numpy_helper.from_array(np.array([-1, 2, 2], dtype=np.int64), "corner_shape"),
        ]
    width = FEATURES if k == 0 else WIDTH
    inputs = [_float(name, "batch", width) for name in sources] + [_float(TEMPERATURE_INPUT, 1)]
    outputs = [_float(f"e{k}", "batch", layer.head.shape[1]), _float(f"e{k}{READOUT_SUFFIX}", "batch", 4)]
    outputs.append(_float(f"e{k}{PROBABILITIES_SUFFIX}", "batch", layer.head.shape[1]))
    if not last:
        outputs.append(_float(f"hidden{k}", "batch", WIDTH))
    if companions:
        outputs.append(_float(f"corners{k}", "batch", 2, 2))
        outputs.append(helper.make_tensor_value_info(f"feature{k}", TensorProto.INT64, ["batch"]))
    graph = helper.make_graph(nodes, f"stage{k}", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def _readout_nodes(logits: str) -> list[onnx.NodeProto]:
    """Return the nodes that compute top-1 class, top-1 and top-2 probability, and entropy of softmax(logits / T)."""
    make, probabilities = helper.make_node, f"{logits}{PROBABILITIES_SUFFIX}"
    return [
        make("Div", [logits, TEMPERATURE_INPUT], ["scaled"]),
        make("Softmax", ["scaled"], [probabilities], axis=-1),
        make("LogSoftmax", ["scaled"], ["logs"], axis=-1),
        make("TopK", [probabilities, "two"], ["top2", "top2_class"], axis=-1),
        make("Split", ["top2_class", "top2_split"], ["top1_class", "runner_up_class"], axis=-1),
        make("Cast", ["top1_class"], ["top1"], to=TensorProto.FLOAT),
        make("Mul", [probabilities, "logs"], ["terms"]),
        make("ReduceSum", ["terms", "class_axis"], ["negative_entropy"], keepdims=1),
        make("Neg", ["negative_entropy"], ["entropy"]),
        make("Concat", ["top1", "top2", "entropy"], [f"{logits}{READOUT_SUFFIX}"], axis=1),
    ]


def _float(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
