"""TensorRT plans: built from a bundle's stages on the device or ahead of time, verified, and cached."""

from edgeexit.backends.tensorrt.cuda.gpu import Hardware, find_gpu
from edgeexit.backends.tensorrt.engines.build import EngineReport, StageEngine, build_engines
from edgeexit.backends.tensorrt.engines.build_config import (
    check_range,
    free_words,
    parse_dimensions,
    parse_range,
    resolve_build_config,
    stage_shapes,
)
from edgeexit.backends.tensorrt.engines.cache import PlanCache, PlanRecord, StoredPlan, default_folder
from edgeexit.backends.tensorrt.engines.key import PlanKey, plan_key
from edgeexit.backends.tensorrt.engines.missing import build_missing_plans
from edgeexit.backends.tensorrt.engines.parse import check_stages
from edgeexit.backends.tensorrt.engines.site import Site, choose_site, read_sm
from edgeexit.backends.tensorrt.engines.verify import ExitCheck, check_exit
from edgeexit.backends.tensorrt.library import Library, installed_libraries

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
    "resolve_build_config",
    "stage_shapes",
]
