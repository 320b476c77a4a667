"""Writes down how plans are to be built: the target's numbers, and ranges of what is known only at run time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.backends.tensorrt.engines import check_range, free_words
from edgeexit.backends.tensorrt.engines.build_config import Range
from edgeexit.bundle.manifest import BuildConfig, StageSpec, TensorSpec
from edgeexit.compiler.export.inputs import draw_samples
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.compiler.verify import compose
from edgeexit.errors import CompileError
from edgeexit.targets import Target

_SAMPLES: Final = 2


def start_build_config(
    device: Target, inputs: Sequence[TensorSpec], dimensions: Mapping[str, Range]
) -> BuildConfig | None:
    """Return the recipe of a target with ranges of the inputs' dimensions, or None where there are no plans.

    Raises CompileError for a range of a dimension that the inputs do not have, EngineError for one that does not rise.
    """
    words = free_words(inputs)
    for word, sizes in dimensions.items():
        check_range(word, sizes)
        if word not in words:
            known = ", ".join(f"'{name}'" for name in words) or "none"
            raise CompileError(f"--dimension '{word}': the inputs' dimensions known only at run time are: {known}")
    if device.runtime == "onnxruntime" or device.nvidia is None:
        if dimensions:
            raise CompileError(
                f"--dimension '{next(iter(dimensions))}': only plans of TensorRT have ranges, the target opens the "
                f"stages in {device.runtime}; leave it out"
            )
        return None
    return BuildConfig(batch=device.nvidia.batch, dimensions=dict(dimensions), workspace_mb=device.nvidia.workspace_mb)


def finish_build_config(
    build_config: BuildConfig | None,
    inputs: Sequence[TensorSpec],
    stages: Sequence[StageSpec],
    folder: Path,
    *,
    on_warning: Callable[[str], None],
) -> BuildConfig | None:
    """Run the stages at both ends of the inputs' ranges and between, and add the ranges that what crosses has then.

    Where an input has no range, `on_warning` is told what `edgeexit engines build` will ask for. Raises CompileError where
    a stage does not run at a size that is in range.
    """
    if build_config is None:
        return None
    carried = [spec for stage in stages for spec in stage.carry_out]
    words = free_words([*inputs, *carried])
    missing = [word for word in words if word not in build_config.dimensions]
    if not words:
        return build_config
    if any(word not in build_config.dimensions for word in free_words(inputs)):
        options = " ".join(f"--dimension {word}=LEAST,OPTIMAL,MOST" for word in missing)
        here = " ".join(f"--dimension {word}=..." for word in free_words(inputs))
        on_warning(
            f"what is known only at run time has no range, so `edgeexit engines build` needs {options}; compiling with "
            f"{here} puts all of them into the bundle"
        )
        return build_config
    sessions = [ReferenceSession(folder / stage.file, what=stage.name) for stage in stages]
    found: dict[str, list[int]] = {}
    for position in range(3):
        sizes = {word: sizes[position] for word, sizes in build_config.dimensions.items()}
        samples = draw_samples(inputs, sizes=sizes, count=_SAMPLES)
        seen: dict[str, tuple[int, ...]] = {}
        for run in compose(sessions, stages, samples):
            seen |= {name: array.shape for name, array in run.feeds.items()}
        for spec in carried:
            for word, size in zip(spec.shape, seen[spec.name], strict=True):
                if word in missing:
                    found.setdefault(str(word), [size, size, size])[position] = size
    ranges = {word: (min(sizes), sizes[1], max(sizes)) for word, sizes in found.items()}
    return msgspec.structs.replace(build_config, dimensions={**build_config.dimensions, **ranges})
