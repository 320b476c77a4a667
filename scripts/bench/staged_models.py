"""Makes the variants of one network that `staged.py` compares: bundle, full graph, and eager PyTorch."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx.utils import Extractor
from resnet56 import EXIT_BLOCKS, ResNet56
from torch import nn

from edgeexit.backends.onnxruntime.backend import OnnxRuntimeBackend, session_options
from edgeexit.backends.onnxruntime.sessions import UNSAFE_OPTIMISERS
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import READOUT_SUFFIX, TEMPERATURE_INPUT
from edgeexit.compiler import compile_bundle
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.readout import COLUMNS, P1, Array
from edgeexit.runtime import Runner
from edgeexit.targets import Target, load_target

IMAGE = "image"
EXITS = tuple(f"exit{k}" for k in range(len(EXIT_BLOCKS) + 1))
EXIT_FRACTIONS = (0.4, 0.25, 0.2, 0.15)
"""Fraction of the samples that exit at each exit."""
_SHAPE = (3, 32, 32)
_OPSET = 20
_CPU = "cpu"


def make_images(count: int, seed: int) -> Array:
    """Return random images [count, 3, 32, 32], each with a different contrast."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(count, *_SHAPE)) * random.uniform(0.2, 3, (count, 1, 1, 1))).astype(np.float32)


def make_network() -> ResNet56:
    """Return the network in evaluation mode, with random weights and batch statistics from random images."""
    network = ResNet56().train()
    with torch.no_grad():
        for seed in range(5):
            network(torch.from_numpy(make_images(32, seed)))
    return network.eval()


def export(network: ResNet56, path: Path) -> None:
    """Write the network as one graph with four outputs."""
    torch.onnx.export(
        network,
        (torch.from_numpy(make_images(2, 0)),),
        path,
        input_names=[IMAGE],
        output_names=list(EXITS),
        dynamic_shapes={IMAGE: {0: torch.export.Dim("batch")}},
        dynamo=True,
        opset_version=_OPSET,
        external_data=False,
        verbose=False,
    )


def one_thread(target: Target) -> Target:
    """Return the target with one thread per session."""
    return msgspec.structs.replace(target, session=msgspec.structs.replace(target.session, threads=1))


def open_session(target: Target, model: Path | onnx.ModelProto) -> ort.InferenceSession:
    """Open a graph with the session options of the stages."""
    options = session_options(target)
    options.add_session_config_entry("session.use_env_allocators", "1")
    source = model if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=UNSAFE_OPTIMISERS
    )


class Models(NamedTuple):
    """The network in the variants that need no policy."""

    network: ResNet56
    bundle: Bundle
    target: Target
    exported: onnx.ModelProto
    full: ort.InferenceSession
    """The exported graph with all exits."""
    final: ort.InferenceSession
    """The exported graph with only the final exit."""


def make_models(folder: Path) -> Models:
    """Export, compile and open the network, with its files in `folder`."""
    network, path = make_network(), folder / "full.onnx"
    export(network, path)
    bundle = compile_bundle(path, folder / "bundle")
    target = one_thread(load_target(bundle.manifest.target))
    exported = onnx.load(path)
    final = Extractor(exported).extract_model([IMAGE], [EXITS[-1]])
    return Models(network, bundle, target, exported, open_session(target, path), open_session(target, final))


def make_runner(models: Models) -> Runner:
    """Return a runner with one thread, not yet open."""
    backend = OnnxRuntimeBackend(models.bundle, models.target, fallback=False, warning=None)
    return Runner(models.bundle, backend=backend)


def mixed_policy(runner: Runner, images: Array) -> Confidence:
    """Return a policy under which the images exit in `EXIT_FRACTIONS`; each threshold is midway between two scores."""
    readouts = runner.infer_every_exit({IMAGE: images}).readouts
    continuing = np.arange(len(images))
    thresholds = []
    for k, fraction in enumerate(EXIT_FRACTIONS[:-1]):
        order = continuing[np.argsort(-readouts[continuing, k, P1])]
        count = round(fraction * len(images))
        thresholds.append(float((readouts[order[count - 1], k, P1] + readouts[order[count], k, P1]) / 2))
        continuing = order[count:]
    return Confidence(temperatures=(1.0,) * len(EXITS), thresholds=tuple(thresholds))


class Result(NamedTuple):
    """The result of a variant for one sample."""

    prediction: int
    exit_index: int


class Eager:
    """The network in eager PyTorch, which stops at the first exit whose top-1 probability is high enough."""

    def __init__(self, network: ResNet56, thresholds: Sequence[float]) -> None:
        blocks = [*network.layer1, *network.layer2, *network.layer3]
        starts = (0, *EXIT_BLOCKS)
        trunks = [nn.Sequential(*blocks[a:b]) for a, b in zip(starts, (*EXIT_BLOCKS, len(blocks)), strict=True)]
        trunks[0] = nn.Sequential(network.conv1, network.bn1, nn.ReLU(), *trunks[0])
        last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.linear)
        self._stages = list(zip(trunks, [*network.heads, last], strict=True))
        self._thresholds = thresholds

    @torch.inference_mode()
    def infer(self, image: Array) -> Result:
        """Return prediction and exit of one image [1, 3, 32, 32]."""
        x = torch.from_numpy(image)
        for k, (trunk, head) in enumerate(self._stages):
            x = trunk(x)
            probability, prediction = torch.softmax(head(x), dim=1).max(dim=1)
            if k == len(self._thresholds) or probability.item() >= self._thresholds[k]:
                return Result(int(prediction.item()), k)
        raise AssertionError("every sample exits at the final exit")


class BoundSession:
    """A session whose inputs and outputs are bound to fixed memory.

    Args:
        session: the session.
        arrays: name -> memory of inputs and outputs. Memory for missing outputs is added; all inputs must be present.
        outputs: name -> shape [batch, ...] of the outputs to compute.

    """

    def __init__(
        self,
        session: ort.InferenceSession,
        arrays: dict[str, npt.NDArray[Any]],
        outputs: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._arrays = arrays
        for value in session.get_inputs():
            array = arrays[value.name]
            self._binding.bind_input(value.name, _CPU, 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, shape in outputs.items():
            array = arrays.setdefault(name, np.empty(shape, dtype=np.float32))
            self._binding.bind_output(name, _CPU, 0, np.float32, shape, array.ctypes.data)

    def run(self) -> None:
        """Run the session on the current content of the memory."""
        self._session.run_with_iobinding(self._binding)


class BareStages:
    """The stages of a bundle as bare sessions on fixed memory, to measure the duration of the graphs alone."""

    def __init__(self, models: Models, batch: int) -> None:
        manifest = models.bundle.manifest
        self._image = np.empty((batch, *_SHAPE), dtype=np.float32)
        arrays: dict[str, npt.NDArray[Any]] = {IMAGE: self._image, TEMPERATURE_INPUT: np.ones(1, dtype=np.float32)}
        self._stages = []
        for stage in manifest.stages:
            shapes = {spec.name: (batch, *map(int, spec.shape[1:])) for spec in (stage.exit, *stage.carry_out)}
            shapes[stage.exit.name + READOUT_SUFFIX] = (batch, len(COLUMNS))
            session = open_session(models.target, models.bundle.path / stage.file)
            self._stages.append(BoundSession(session, arrays, shapes))

    def seconds(self, images: Array, last: int) -> list[float]:
        """Run images [B, 3, 32, 32] through the stages up to `last`. Return seconds per stage, NaN after `last`."""
        self._image[:] = images
        seconds = [np.nan] * len(self._stages)
        for k in range(last + 1):
            started = time.perf_counter_ns()
            self._stages[k].run()
            seconds[k] = (time.perf_counter_ns() - started) * 1e-9
        return seconds
