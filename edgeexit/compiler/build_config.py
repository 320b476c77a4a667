"""Writes the TensorRT build config: the target's settings, and a size range for every symbolic dimension."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.backends.dimensions import SizeRange, check_range, symbolic_dimensions
from edgeexit.bundle.manifest import BuildConfig, StageSpec, TensorSpec
from edgeexit.compiler.samples import draw_samples
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.compiler.verify import run_stages
from edgeexit.errors import CompileError
from edgeexit.progress import NO_PROGRESS, Progress
from edgeexit.targets import Target

_SAMPLES: Final = 2  # samples per run at each size


def check_dimension_names(inputs: Sequence[TensorSpec], dimensions: Mapping[str, SizeRange]) -> None:
    """Raise CompileError for a range of a dimension that no input has."""
    names = symbolic_dimensions(inputs)
    for name in dimensions:
        if name not in names:
            known = ", ".join(f"'{known}'" for known in names) or "none"
            raise CompileError(
                f"--dimension '{name}': no input has it; the symbolic dimensions of the inputs are: {known}"
            )


def check_buildable(device: Target, dimensions: Mapping[str, SizeRange]) -> None:
    """Raise CompileError for any range if the target builds no plans, EngineError for one that is not increasing."""
    for name, sizes in dimensions.items():
        check_range(name, sizes)
    if dimensions and not device.backend.builds_engines:
        raise CompileError(
            f"--dimension '{next(iter(dimensions))}': only TensorRT plans have size ranges; this target runs the "
            f"stages in {device.backend.title}; remove the option"
        )


def start_build_config(
    device: Target, inputs: Sequence[TensorSpec], dimensions: Mapping[str, SizeRange]
) -> BuildConfig | None:
    """Return the target's build config with the ranges of the inputs' dimensions; None if the target builds no plans.

    Raises CompileError and EngineError as `check_dimension_names` and `check_buildable` do.
    """
    check_dimension_names(inputs, dimensions)
    check_buildable(device, dimensions)
    if not device.backend.builds_engines or device.nvidia is None:
        return None
    return BuildConfig(batch=device.nvidia.batch, dimensions=dict(dimensions), workspace_mb=device.nvidia.workspace_mb)


def finish_build_config(
    build_config: BuildConfig | None,
    inputs: Sequence[TensorSpec],
    stages: Sequence[StageSpec],
    folder: Path,
    *,
    progress: Progress = NO_PROGRESS,
) -> BuildConfig | None:
    """Add the ranges of the carries, found by running the stages at the min, optimal and max sizes of the inputs.

    If an input has no range, the carries get none either, and a warning names the options that `edgeexit engines build`
    will need. Raises CompileError if a stage does not run at one of the sizes.
    """
    if build_config is None:
        return None
    carried = [spec for stage in stages for spec in stage.carry_out]
    names = symbolic_dimensions([*inputs, *carried])
    missing = [name for name in names if name not in build_config.dimensions]
    if not names:
        return build_config
    if any(name not in build_config.dimensions for name in symbolic_dimensions(inputs)):
        needed = " ".join(f"--dimension {name}=MIN,OPT,MAX" for name in missing)
        here = " ".join(f"--dimension {name}=..." for name in symbolic_dimensions(inputs))
        progress.warning(
            f"symbolic dimensions have no size range, so `edgeexit engines build` will need {needed}; "
            f"`edgeexit compile` with {here} stores all ranges in the bundle"
        )
        return build_config
    sessions = [ReferenceSession(folder / stage.file, what=stage.name) for stage in stages]
    found: dict[str, list[int]] = {}
    for position in range(3):
        sizes = {name: sizes[position] for name, sizes in build_config.dimensions.items()}
        samples = draw_samples(inputs, sizes=sizes, count=_SAMPLES)
        shapes: dict[str, tuple[int, ...]] = {}
        for run in run_stages(sessions, stages, samples):
            shapes |= {name: array.shape for name, array in run.feeds.items()}
        for spec in carried:
            for name, size in zip(spec.shape, shapes[spec.name], strict=True):
                if name in missing:
                    found.setdefault(str(name), [size, size, size])[position] = size
    ranges = {name: (min(sizes), sizes[1], max(sizes)) for name, sizes in found.items()}
    return msgspec.structs.replace(build_config, dimensions={**build_config.dimensions, **ranges})
