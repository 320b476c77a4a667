"""Builds the plans that an agent needs and does not have: at its first start, and after an update of TensorRT."""

import platform

from edgeexit.backends.tensorrt.engines.build import build_engines
from edgeexit.backends.tensorrt.engines.build_config import resolve_build_config
from edgeexit.backends.tensorrt.engines.cache import PlanCache, default_folder
from edgeexit.backends.tensorrt.engines.key import plan_key
from edgeexit.backends.tensorrt.engines.toolchain import choose_toolchain
from edgeexit.bundle import Bundle
from edgeexit.errors import EngineError
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.targets import load_target


def build_missing_engines(bundle: Bundle, *, progress: Progress = NO_PROGRESS) -> bool:
    """Build and verify the plans of a bundle unless all of them are cached; return whether any was built.

    Builds nothing for a target without plans or of another architecture, and if the GPU or the library is missing here:
    opening the backend reports that. `progress.step` receives each stage's name, on another thread. Raises
    EngineError for a stage that TensorRT refuses or whose logits are wrong, and OSError if the cache cannot be written.
    """
    manifest = bundle.manifest
    target = load_target(manifest.target)
    if not target.backend.builds_engines or target.architecture != platform.machine():
        return False
    try:
        toolchain = choose_toolchain(None, first=target.runtime)
    except EngineError:
        return False
    build_config, cache = resolve_build_config(manifest, target.nvidia), PlanCache(default_folder())
    library = toolchain.library
    keys = {
        stage.name: plan_key(
            manifest, stage, build_config, library=library.name, version=library.version, hardware=toolchain.hardware
        )
        for stage in manifest.stages
    }
    if all(cache.open_plan(key, name) is not None for name, key in keys.items()):
        return False
    build_engines(bundle, toolchain, build_config, cache, progress=progress)
    return True
