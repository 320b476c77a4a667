"""TensorRT plans: built from a bundle's stages on the device or ahead of time, verified, and cached."""

from edgeexit.backends.tensorrt.cuda.gpu import Hardware, find_gpu
from edgeexit.backends.tensorrt.engines.build import EngineReport, StageEngine, build_engines
from edgeexit.backends.tensorrt.engines.build_config import resolve_build_config, stage_shapes
from edgeexit.backends.tensorrt.engines.build_missing import build_missing_engines
from edgeexit.backends.tensorrt.engines.cache import PlanCache, PlanRecord, StoredPlan, default_folder
from edgeexit.backends.tensorrt.engines.key import PlanKey, plan_key
from edgeexit.backends.tensorrt.engines.parse import check_stages
from edgeexit.backends.tensorrt.engines.toolchain import Toolchain, choose_toolchain, read_sm
from edgeexit.backends.tensorrt.library import Library, installed_libraries

__all__ = [
    "EngineReport",
    "Hardware",
    "Library",
    "PlanCache",
    "PlanKey",
    "PlanRecord",
    "StageEngine",
    "StoredPlan",
    "Toolchain",
    "build_engines",
    "build_missing_engines",
    "check_stages",
    "choose_toolchain",
    "default_folder",
    "find_gpu",
    "installed_libraries",
    "plan_key",
    "read_sm",
    "resolve_build_config",
    "stage_shapes",
]
