"""Opens the TensorRT backend on the stand-in GPU with freshly built plans, and compares its results."""

import msgspec
import numpy as np

from edgeexit.backends.onnxruntime.backend import OnnxRuntimeBackend
from edgeexit.backends.tensorrt.backend import TensorRtBackend
from edgeexit.backends.tensorrt.engines import PlanCache, build_engines, choose_toolchain, resolve_build_config
from edgeexit.bundle import Bundle
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner
from edgeexit.targets import load_target

EXITS = 4
NEVER_EARLY = Confidence(temperatures=(1.0,) * EXITS, thresholds=(None,) * (EXITS - 1))


def on_onnx_runtime(bundle):
    return Runner(bundle, backend=OnnxRuntimeBackend(bundle, load_target("x86-cpu"), fallback=True))


def open_backend(machine, bundle, folder, batch=None, **options):
    """Return a backend, not open yet, whose plans are built for this batch range."""
    if batch is not None:
        build_config = resolve_build_config(bundle.manifest, None, batch=batch)
        manifest = msgspec.structs.replace(bundle.manifest, build_config=build_config)
        bundle = Bundle(bundle.path, manifest, bundle.digest)
    target = msgspec.structs.replace(load_target("nvidia-desktop"), runtime=machine.name)
    backend = TensorRtBackend(bundle, target, cache=folder, **options)
    build_engines(
        bundle, choose_toolchain(None), resolve_build_config(bundle.manifest, target.nvidia), PlanCache(folder)
    )
    machine.gpu.calls.clear()
    machine.gpu.bytes.clear()
    return backend


def assert_same(found, expected):
    np.testing.assert_array_equal(found.exits, expected.exits)
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-5)
    np.testing.assert_allclose(found.readouts, expected.readouts, atol=1e-5)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
