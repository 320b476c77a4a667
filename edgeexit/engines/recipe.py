"""From a recipe to the shapes that a plan is built for."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from edgeexit.errors import EngineError
from edgeexit.manifest import TEMPERATURE_INPUT, Manifest, Recipe, StageSpec, TensorSpec
from edgeexit.targets import Nvidia

Range = tuple[int, int, int]
"""Least, optimal and most."""

_WORKSPACE_MB: Final = 1024
_BATCH: Final = (1, 1, 32)


class Shapes(NamedTuple):
    """The shapes of one input that a plan takes."""

    least: tuple[int, ...]
    optimal: tuple[int, ...]
    most: tuple[int, ...]


def resolve_recipe(
    manifest: Manifest,
    nvidia: Nvidia | None,
    *,
    batch: Range | None = None,
    dimensions: Mapping[str, Range] | None = None,
    workspace_mb: int | None = None,
    dla_core: int | None = None,
) -> Recipe:
    """Return the bundle's recipe, or one for the target where it has none, with what is given in its place.

    Raises EngineError: a range that is not 1 <= least <= optimal <= most, a dimension that the bundle does not have or
    that has no range, or a DLA that cannot run it.
    """
    recipe = manifest.recipe or Recipe(
        batch=_BATCH if nvidia is None else nvidia.batch,
        workspace_mb=_WORKSPACE_MB if nvidia is None else nvidia.workspace_mb,
    )
    recipe = msgspec.structs.replace(
        recipe,
        batch=batch or recipe.batch,
        dimensions={**recipe.dimensions, **(dimensions or {})},
        workspace_mb=workspace_mb or recipe.workspace_mb,
        dla_core=recipe.dla_core if dla_core is None else dla_core,
    )
    _check_ranges(manifest, recipe)
    if recipe.dla_core is not None:
        _check_dla(manifest, recipe)
    return recipe


def stage_shapes(manifest: Manifest, stage: StageSpec, recipe: Recipe) -> dict[str, Shapes]:
    """Return the shapes of every input of a stage's graph, temperature included."""
    specs = _tensors(manifest)
    shapes = {TEMPERATURE_INPUT: Shapes((1,), (1,), (1,))}
    for name in (*stage.inputs, *stage.carry_in):
        ranges = [_range(size, axis, recipe) for axis, size in enumerate(specs[name].shape)]
        shapes[name] = Shapes(*zip(*ranges, strict=True)) if ranges else Shapes((), (), ())
    return shapes


def outside(manifest: Manifest, recipe: Recipe, samples: Mapping[str, tuple[int, ...]]) -> str | None:
    """Say which input of the samples' shapes lies outside of a recipe's ranges, the batch aside; None: none does."""
    for spec in manifest.inputs:
        for axis, size in enumerate(spec.shape[1:], start=1):
            least, _, most = _range(size, axis, recipe)
            if not least <= samples[spec.name][axis] <= most:
                return f"the golden samples' '{spec.name}' has {size} {samples[spec.name][axis]}, not {least} to {most}"
    return None


def _range(size: int | str, axis: int, recipe: Recipe) -> Range:
    if isinstance(size, int):
        return size, size, size
    return recipe.batch if axis == 0 else recipe.dimensions[size]


def _tensors(manifest: Manifest) -> dict[str, TensorSpec]:
    carries = itertools.chain.from_iterable(stage.carry_out for stage in manifest.stages)
    return {spec.name: spec for spec in (*manifest.inputs, *carries)}


def _words(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield every dimension known only at run time, the batch aside, and the tensor that has it."""
    for spec in _tensors(manifest).values():
        for size in spec.shape[1:]:
            if isinstance(size, str):
                yield size, spec.name


def _check_ranges(manifest: Manifest, recipe: Recipe) -> None:
    for name, (least, optimal, most) in {"batch": recipe.batch, **recipe.dimensions}.items():
        if not 1 <= least <= optimal <= most:
            raise EngineError(
                f"the range of '{name}' is {least},{optimal},{most}; it has to be LEAST,OPTIMAL,MOST, rising, from 1"
            )
    words: dict[str, str] = {}
    for word, tensor in _words(manifest):
        words.setdefault(word, tensor)
    for word in recipe.dimensions.keys() - words.keys():
        known = ", ".join(f"'{name}'" for name in words) or "none"
        raise EngineError(f"the bundle has no dimension '{word}'; those known only at run time are: {known}")
    for word, tensor in words.items():
        if word not in recipe.dimensions:
            raise EngineError(
                f"tensor '{tensor}' has the dimension '{word}', and the recipe no range for it; give one: "
                f"--dimension {word}=LEAST,OPTIMAL,MOST"
            )


def _check_dla(manifest: Manifest, recipe: Recipe) -> None:
    if manifest.precision == "fp32":
        raise EngineError("a DLA runs fp16 and int8, the bundle is fp32; compile it with --precision fp16 or int8")
    for name, (least, optimal, most) in {"batch": recipe.batch, **recipe.dimensions}.items():
        if not least == optimal == most:
            raise EngineError(
                f"a DLA takes one size of every dimension, the range of '{name}' is {least},{optimal},{most}; "
                f"give three equal numbers"
            )
