"""Builds what a bundle needs here and has not got: on a device's first start, and after its TensorRT changed."""

import platform
from collections.abc import Callable

from edgeexit.backends.tensorrt.engines.build import build_engines
from edgeexit.backends.tensorrt.engines.build_config import resolve_build_config
from edgeexit.backends.tensorrt.engines.cache import PlanCache, default_folder
from edgeexit.backends.tensorrt.engines.key import plan_key
from edgeexit.backends.tensorrt.engines.site import choose_site
from edgeexit.bundle import Bundle
from edgeexit.errors import EngineError
from edgeexit.targets import load_target


def build_missing_plans(bundle: Bundle, *, on_stage: Callable[[str], None]) -> bool:
    """Build and verify the plans that the bundle's target runs, where one of them is not cached; return whether.

    Nothing is done for a target without plans, of another architecture, or without its GPU or library here: whoever
    opens the runtime is told what is amiss. `on_stage` is told each stage's name when it begins, on another thread.
    Raises EngineError for a stage that TensorRT does not take or that answers wrongly, OSError where the cache cannot
    be written.
    """
    manifest = bundle.manifest
    target = load_target(manifest.target)
    if target.runtime == "onnxruntime" or target.architecture != platform.machine():
        return False
    try:
        site = choose_site(None, first=target.runtime)
    except EngineError:
        return False
    build_config, cache = resolve_build_config(manifest, target.nvidia), PlanCache(default_folder())
    library = site.library
    keys = {
        stage.name: plan_key(
            manifest, stage, build_config, library=library.name, version=library.version, hardware=site.hardware
        )
        for stage in manifest.stages
    }
    if all(cache.open_plan(key, name) is not None for name, key in keys.items()):
        return False
    build_engines(bundle, site, build_config, cache, on_stage=on_stage)
    return True
