"""The key of a plan: everything that must match before the plan is loaded."""

import hashlib
from typing import Final

import msgspec

from edgeexit.backends.tensorrt.cuda.gpu import Hardware
from edgeexit.backends.tensorrt.library import LibraryName
from edgeexit.bundle import GOLDEN
from edgeexit.bundle.manifest import BuildConfig, Manifest, StageSpec

_BUILDER: Final = 1
"""Version of the code that builds plans: increase it when the same inputs give other plans than before."""


class PlanKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plans with equal keys are interchangeable."""

    stage: str
    """SHA-256 of the stage's graph file."""
    weights: dict[str, str]
    """File name -> SHA-256, for every file with external weights."""
    build_config: str
    """SHA-256 of the build config's JSON."""
    dla_core: int | None
    library: LibraryName
    version: str
    """Exact version of the library."""
    hardware: Hardware
    builder: int = _BUILDER

    @property
    def digest(self) -> str:
        """SHA-256 of the key's JSON, hex."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


def plan_key(
    manifest: Manifest,
    stage: StageSpec,
    build_config: BuildConfig,
    *,
    library: LibraryName,
    version: str,
    hardware: Hardware,
) -> PlanKey:
    """Return the key of a stage's plan."""
    graphs = {other.file for other in manifest.stages}
    return PlanKey(
        stage=manifest.files[stage.file].sha256,
        weights={name: spec.sha256 for name, spec in manifest.files.items() if name not in graphs and name != GOLDEN},
        build_config=hashlib.sha256(msgspec.json.encode(build_config, order="deterministic")).hexdigest(),
        dla_core=build_config.dla_core,
        library=library,
        version=version,
        hardware=hardware,
    )


def timings_name(key: PlanKey) -> str:
    """Return the file name of the timing cache for the library, GPU, driver and power mode of a key."""
    shared = (key.library, key.version, key.hardware)
    return hashlib.sha256(msgspec.json.encode(shared, order="deterministic")).hexdigest()[:16]
