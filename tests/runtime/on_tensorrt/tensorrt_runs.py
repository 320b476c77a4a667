"""Opens the TensorRT backend on the stand-in GPU, with plans that are built for it, and compares answers."""

import msgspec
import numpy as np

from edgeexit.bundle import Bundle
from edgeexit.engines import PlanCache, build_engines, choose_site, resolve_recipe
from edgeexit.policies import Confidence
from edgeexit.runtime import Runner
from edgeexit.runtime.onnxruntime_backend import OnnxRuntimeBackend
from edgeexit.runtime.tensorrt_backend import TensorRtBackend
from edgeexit.targets import load_target

EXITS = 4
NEVER_EARLY = Confidence(temperatures=(1.0,) * EXITS, thresholds=(None,) * (EXITS - 1))


def on_onnx_runtime(bundle):
    return Runner(bundle, backend=OnnxRuntimeBackend(bundle, load_target("x86-cpu"), fallback=True, remark=None))


def open_backend(machine, bundle, folder, batch=None, **options):
    """Return a backend, not opened, whose plans are built for these batches."""
    if batch is not None:
        recipe = resolve_recipe(bundle.manifest, None, batch=batch)
        manifest = msgspec.structs.replace(bundle.manifest, recipe=recipe)
        bundle = Bundle(bundle.path, manifest, bundle.digest)
    target = msgspec.structs.replace(load_target("nvidia-desktop"), runtime=machine.name)
    backend = TensorRtBackend(bundle, target, cache=folder, **options)
    build_engines(bundle, choose_site(None), resolve_recipe(bundle.manifest, target.nvidia), PlanCache(folder))
    machine.gpu.calls.clear()
    machine.gpu.bytes.clear()
    return backend


def assert_same(found, expected):
    np.testing.assert_array_equal(found.exits, expected.exits)
    np.testing.assert_array_equal(found.answers, expected.answers)
    np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-5)
    np.testing.assert_allclose(found.readouts, expected.readouts, atol=1e-5)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
