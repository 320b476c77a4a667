"""TensorRT plans: built from a bundle's stages on the device or ahead of time, verified, and cached."""

from edgeexit.engines.build import EngineReport, StageEngine, build_engines
from edgeexit.engines.cache import PlanCache, PlanRecord, StoredPlan, default_folder
from edgeexit.engines.choose import Site, choose_site, read_sm
from edgeexit.engines.gpu import Hardware, find_gpu
from edgeexit.engines.key import PlanKey, plan_key
from edgeexit.engines.library import Library, installed_libraries
from edgeexit.engines.missing import build_missing_plans
from edgeexit.engines.parse import check_stages
from edgeexit.engines.recipe import check_range, free_words, parse_dimensions, parse_range, resolve_recipe, stage_shapes
from edgeexit.engines.verify import ExitCheck, check_exit

__all__ = [
    "EngineReport",
    "ExitCheck",
    "Hardware",
    "Library",
    "PlanCache",
    "PlanKey",
    "PlanRecord",
    "Site",
    "StageEngine",
    "StoredPlan",
    "build_engines",
    "build_missing_plans",
    "check_exit",
    "check_range",
    "check_stages",
    "choose_site",
    "default_folder",
    "find_gpu",
    "free_words",
    "installed_libraries",
    "parse_dimensions",
    "parse_range",
    "plan_key",
    "read_sm",
    "resolve_recipe",
    "stage_shapes",
]
