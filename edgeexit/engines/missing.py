"""Builds what a bundle needs here and has not got: on a device's first start, and after its TensorRT changed."""

import platform
from collections.abc import Callable

from edgeexit.bundle import Bundle
from edgeexit.engines.build import build_engines
from edgeexit.engines.cache import PlanCache, default_folder
from edgeexit.engines.choose import choose_site
from edgeexit.engines.key import plan_key
from edgeexit.engines.recipe import resolve_recipe
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
    recipe, cache = resolve_recipe(manifest, target.nvidia), PlanCache(default_folder())
    library = site.library
    keys = {
        stage.name: plan_key(
            manifest, stage, recipe, library=library.name, version=library.version, hardware=site.hardware
        )
        for stage in manifest.stages
    }
    if all(cache.open_plan(key, name) is not None for name, key in keys.items()):
        return False
    build_engines(bundle, site, recipe, cache, on_stage=on_stage)
    return True
