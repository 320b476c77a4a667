"""From a recipe to the shapes that a plan is built for."""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from edgeexit.bundle.manifest import TEMPERATURE_INPUT, BuildConfig, Manifest, StageSpec, TensorSpec
from edgeexit.errors import EngineError
from edgeexit.targets import Nvidia

Range = tuple[int, int, int]
"""Least, optimal and most."""

_WORKSPACE_MB: Final = 1024
_BATCH: Final = (1, 1, 32)
_RANGE: Final = re.compile(r"(\d{1,9}),(\d{1,9}),(\d{1,9})")


class Shapes(NamedTuple):
    """The shapes of one input that a plan takes."""

    least: tuple[int, ...]
    optimal: tuple[int, ...]
    most: tuple[int, ...]


def parse_range(option: str, text: str) -> Range:
    """Parse LEAST,OPTIMAL,MOST, which a command was given for `option`. Raises EngineError."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise EngineError(f"{option} '{text}' is not LEAST,OPTIMAL,MOST, such as 1,8,32")
    return int(match[1]), int(match[2]), int(match[3])


def parse_dimensions(texts: Iterable[str]) -> dict[str, Range]:
    """Parse WORD=LEAST,OPTIMAL,MOST, which a command was given for `--dimension`. Raises EngineError."""
    found: dict[str, Range] = {}
    for text in texts:
        word, _, sizes = text.partition("=")
        if not word or _RANGE.fullmatch(sizes) is None:
            raise EngineError(f"--dimension '{text}' is not NAME=LEAST,OPTIMAL,MOST, such as length=1,16,128")
        if word in found:
            raise EngineError(f"--dimension '{word}' is given twice")
        found[word] = parse_range("--dimension", sizes)
    return found


def check_range(name: str, sizes: Range) -> None:
    """Raise EngineError for a range that does not rise from 1 or more."""
    least, optimal, most = sizes
    if not 1 <= least <= optimal <= most:
        raise EngineError(
            f"the range of '{name}' is {least},{optimal},{most}; it has to be LEAST,OPTIMAL,MOST, rising, from 1"
        )


def free_words(tensors: Iterable[TensorSpec]) -> dict[str, str]:
    """Return every dimension known only at run time, the batch aside, and the first of the tensors that has it."""
    words: dict[str, str] = {}
    for spec in tensors:
        for size in spec.shape[1:]:
            if isinstance(size, str):
                words.setdefault(size, spec.name)
    return words


def resolve_build_config(
    manifest: Manifest,
    nvidia: Nvidia | None,
    *,
    batch: Range | None = None,
    dimensions: Mapping[str, Range] | None = None,
    workspace_mb: int | None = None,
    dla_core: int | None = None,
) -> BuildConfig:
    """Return the bundle's recipe, or one for the target where it has none, with what is given in its place.

    Raises EngineError: a range that is not 1 <= least <= optimal <= most, a dimension that the bundle does not have or
    that has no range, or a DLA that cannot run it.
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


def stage_shapes(manifest: Manifest, stage: StageSpec, build_config: BuildConfig) -> dict[str, Shapes]:
    """Return the shapes of every input of a stage's graph, temperature included."""
    specs = _tensors(manifest)
    shapes = {TEMPERATURE_INPUT: Shapes((1,), (1,), (1,))}
    for name in (*stage.inputs, *stage.carry_in):
        ranges = [_range(size, axis, build_config) for axis, size in enumerate(specs[name].shape)]
        shapes[name] = Shapes(*zip(*ranges, strict=True)) if ranges else Shapes((), (), ())
    return shapes


def outside(manifest: Manifest, build_config: BuildConfig, samples: Mapping[str, tuple[int, ...]]) -> str | None:
    """Say which input of the samples' shapes lies outside of a recipe's ranges, the batch aside; None: none does."""
    for spec in manifest.inputs:
        for axis, size in enumerate(spec.shape[1:], start=1):
            least, _, most = _range(size, axis, build_config)
            if not least <= samples[spec.name][axis] <= most:
                return f"'{spec.name}' has {size} {samples[spec.name][axis]}, not {least} to {most}"
    return None


def _range(size: int | str, axis: int, build_config: BuildConfig) -> Range:
    if isinstance(size, int):
        return size, size, size
    return build_config.batch if axis == 0 else build_config.dimensions[size]


def _tensors(manifest: Manifest) -> dict[str, TensorSpec]:
    carries = itertools.chain.from_iterable(stage.carry_out for stage in manifest.stages)
    return {spec.name: spec for spec in (*manifest.inputs, *carries)}


def _check_ranges(manifest: Manifest, build_config: BuildConfig) -> None:
    for name, sizes in {"batch": build_config.batch, **build_config.dimensions}.items():
        check_range(name, sizes)
    words = free_words(_tensors(manifest).values())
    for word in build_config.dimensions.keys() - words.keys():
        known = ", ".join(f"'{name}'" for name in words) or "none"
        raise EngineError(f"the bundle has no dimension '{word}'; those known only at run time are: {known}")
    missing = {word: tensor for word, tensor in words.items() if word not in build_config.dimensions}
    if missing:
        which = ", ".join(f"'{word}' of '{tensor}'" for word, tensor in missing.items())
        options = " ".join(f"--dimension {word}=LEAST,OPTIMAL,MOST" for word in missing)
        options += ", or compile again with --dimension for the inputs, which works out the rest"
        raise EngineError(f"the recipe has no range for what is known only at run time, {which}; give {options}")


def _check_dla(manifest: Manifest, build_config: BuildConfig) -> None:
    if manifest.precision == "fp32":
        raise EngineError("a DLA runs fp16 and int8, the bundle is fp32; compile it with --precision fp16 or int8")
    for name, (least, optimal, most) in {"batch": build_config.batch, **build_config.dimensions}.items():
        if not least == optimal == most:
            raise EngineError(
                f"a DLA takes one size of every dimension, the range of '{name}' is {least},{optimal},{most}; "
                f"give three equal numbers"
            )
