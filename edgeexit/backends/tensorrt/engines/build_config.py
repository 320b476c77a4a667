"""Resolves the build config of a bundle, and derives the optimization profile of each stage from it."""

import itertools
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from edgeexit.backends.dimensions import SizeRange, check_range, symbolic_dimensions
from edgeexit.bundle.manifest import TEMPERATURE_INPUT, BuildConfig, Manifest, StageSpec, TensorSpec
from edgeexit.errors import EngineError
from edgeexit.targets import Nvidia

_WORKSPACE_MB: Final = 1024
_BATCH: Final = (1, 1, 32)


class ProfileShapes(NamedTuple):
    """The shapes of one input in an optimization profile."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


def resolve_build_config(
    manifest: Manifest,
    nvidia: Nvidia | None,
    *,
    batch: SizeRange | None = None,
    dimensions: Mapping[str, SizeRange] | None = None,
    workspace_mb: int | None = None,
    dla_core: int | None = None,
) -> BuildConfig:
    """Return the bundle's build config, or the target's if it has none, with the given values replacing its own.

    Raises EngineError for a range that is not 1 <= min <= optimal <= max, for a dimension that the bundle does not have
    or that has no range, and for a bundle that cannot run on a DLA.
    """
    build_config = manifest.build_config or BuildConfig(
        batch=_BATCH if nvidia is None else nvidia.batch,
        workspace_mb=_WORKSPACE_MB if nvidia is None else nvidia.workspace_mb,
    )
    build_config = msgspec.structs.replace(
        build_config,
        batch=batch or build_config.batch,
        dimensions={**build_config.dimensions, **(dimensions or {})},
        workspace_mb=workspace_mb or build_config.workspace_mb,
        dla_core=build_config.dla_core if dla_core is None else dla_core,
    )
    _check_ranges(manifest, build_config)
    if build_config.dla_core is not None:
        _check_dla(manifest, build_config)
    return build_config


def stage_shapes(manifest: Manifest, stage: StageSpec, build_config: BuildConfig) -> dict[str, ProfileShapes]:
    """Return the profile's shapes of every input of a stage's graph: model inputs, carry and temperature."""
    specs = _tensors(manifest)
    shapes = {TEMPERATURE_INPUT: ProfileShapes((1,), (1,), (1,))}
    for name in (*stage.inputs, *stage.carry_in):
        ranges = [_range(size, axis, build_config) for axis, size in enumerate(specs[name].shape)]
        shapes[name] = ProfileShapes(*zip(*ranges, strict=True)) if ranges else ProfileShapes((), (), ())
    return shapes


def out_of_range(manifest: Manifest, build_config: BuildConfig, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Describe the first model input whose shape is outside the build config's ranges; None if all are inside.

    The batch dimension is not checked.
    """
    for spec in manifest.inputs:
        for axis, size in enumerate(spec.shape[1:], start=1):
            smallest, _, largest = _range(size, axis, build_config)
            if not smallest <= shapes[spec.name][axis] <= largest:
                return f"input '{spec.name}' has {size} = {shapes[spec.name][axis]}, outside {smallest} to {largest}"
    return None


def _range(size: int | str, axis: int, build_config: BuildConfig) -> SizeRange:
    if isinstance(size, int):
        return size, size, size
    return build_config.batch if axis == 0 else build_config.dimensions[size]


def _tensors(manifest: Manifest) -> dict[str, TensorSpec]:
    carries = itertools.chain.from_iterable(stage.carry_out for stage in manifest.stages)
    return {spec.name: spec for spec in (*manifest.inputs, *carries)}


def _check_ranges(manifest: Manifest, build_config: BuildConfig) -> None:
    for name, sizes in {"batch": build_config.batch, **build_config.dimensions}.items():
        check_range(name, sizes)
    dimensions = symbolic_dimensions(_tensors(manifest).values())
    for name in build_config.dimensions.keys() - dimensions.keys():
        known = ", ".join(f"'{name}'" for name in dimensions) or "none"
        raise EngineError(f"the bundle has no dimension '{name}'; its symbolic dimensions are: {known}")
    missing = {name: tensor for name, tensor in dimensions.items() if name not in build_config.dimensions}
    if missing:
        which = ", ".join(f"'{name}' of '{tensor}'" for name, tensor in missing.items())
        options = " ".join(f"--dimension {name}=MIN,OPT,MAX" for name in missing)
        raise EngineError(
            f"the build config has no range for the symbolic dimension {which}; give {options}, or compile again with "
            "--dimension for the inputs, which derives the other ranges"
        )


def _check_dla(manifest: Manifest, build_config: BuildConfig) -> None:
    if manifest.precision == "fp32":
        raise EngineError(
            "a DLA runs fp16 and int8 only, but the bundle is fp32; compile it with --precision fp16 or int8"
        )
    for name, sizes in {"batch": build_config.batch, **build_config.dimensions}.items():
        if len(set(sizes)) > 1:
            raise EngineError(
                f"a DLA supports one size per dimension, but the range of '{name}' is {','.join(map(str, sizes))}; "
                "give three equal numbers"
            )
