"""Runs the full model and checks its exits: they must return finite logits of the same shape."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Task
from edgeexit.compiler.exits.forms import ExitForm, find_forms, not_logits, to_logits
from edgeexit.compiler.samples import in_batches
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

Logits = dict[str, npt.NDArray[np.float32]]
"""Exit name -> logits [N, C]; [N, C, H, W] for segmentation, [N, C, 1, T] for tagging."""

MAX_BATCH: Final = 32
"""Max samples of a batch on the build machine."""
MAX_BATCH_BYTES: Final = 64 << 20
"""Max bytes of the logits of a batch."""
_MAX_LOGIT_BYTES: Final = 512 << 20
"""Max bytes of the logits of all samples, which are in memory twice during the proof."""
_GOLDEN_SAMPLES: Final = 8
_MAX_GOLDEN_BYTES: Final = 16 << 20
"""Max bytes of the golden logits, which ship in the bundle."""
_MIN_CLASSES: Final = 2


class ExitFormat(NamedTuple):
    """The task of the exits, the size of their logits, and the numbers of samples that follow from it."""

    task: Task
    bytes_per_sample: int
    """Bytes of the logits of all exits together."""
    forms: Mapping[str, ExitForm]
    """Exit name -> how the output of the model becomes logits."""
    warnings: tuple[str, ...]
    """One line for each conversion that the user may not expect."""

    @property
    def batch_size(self) -> int:
        """Number of samples to run in one batch: at most 32, fewer if the logits are large."""
        return max(1, min(MAX_BATCH, MAX_BATCH_BYTES // self.bytes_per_sample))

    @property
    def max_samples(self) -> int:
        """Largest number of samples whose logits may be in memory at the same time."""
        return max(1, _MAX_LOGIT_BYTES // self.bytes_per_sample)

    @property
    def golden_samples(self) -> int:
        """Largest number of golden samples in the bundle."""
        return max(1, min(_GOLDEN_SAMPLES, _MAX_GOLDEN_BYTES // self.bytes_per_sample))


def exit_format_of(
    session: ReferenceSession, samples: Inputs, exits: Sequence[str], *, task: Task | None, unsure: Sequence[str] = ()
) -> ExitFormat:
    """Run one sample and return the format of the exits; from then on, `session` returns the exits as logits.

    If `task` is None, the shapes of the exits decide the task. `unsure` are exits whose maps may be larger than those
    of this sample. Raises CompileError for an exit that is not logits of the task, or whose shape differs from the
    other exits.
    """
    (one,) = in_batches(samples, size=1, until=1)
    outputs = dict(zip(exits, session.run(one, exits), strict=True))
    for name, array in outputs.items():
        if array.dtype.kind != "f":
            raise CompileError(not_logits(name, str(array.dtype)))
    found = find_forms(outputs, task=task, unsure=unsure)
    session.convert_outputs({name: partial(to_logits, form=form) for name, form in found.forms.items()})
    logits = {name: to_logits(array, found.forms[name]) for name, array in outputs.items()}
    _check_shapes(logits, 1)
    return ExitFormat(found.task, sum(array.nbytes for array in logits.values()), found.forms, found.warnings)


def run_exits(session: ReferenceSession, samples: Inputs, exits: Sequence[str], exit_format: ExitFormat) -> Logits:
    """Return the logits of the full model on all samples. `session` returns the exits as logits.

    Raises CompileError if an exit has a wrong shape, or is NaN or infinite.
    """
    batches: list[list[npt.NDArray[Any]]] = []
    for batch in in_batches(samples, size=exit_format.batch_size):
        arrays = session.run(batch, exits)
        _check_shapes(dict(zip(exits, arrays, strict=True)), len(next(iter(batch.values()))))
        batches.append(arrays)
    logits = {name: np.concatenate(parts) for name, parts in zip(exits, zip(*batches, strict=True), strict=True)}
    _check_values(logits)
    return logits


def _check_shapes(logits: Mapping[str, npt.NDArray[Any]], count: int) -> None:
    for name, array in logits.items():
        if len(array) != count or not array.size:
            shape = "x".join(map(str, array.shape))
            raise CompileError(
                f"exit '{name}' is {shape} for a batch of {count}; every exit must have one row per sample"
            )
        if array.shape[1] < _MIN_CLASSES:
            raise CompileError(
                f"exit '{name}' has {array.shape[1]} class; a classifier has at least 2, unless all exits have one"
            )
    classes = {name: array.shape[1] for name, array in logits.items()}
    if len(set(classes.values())) > 1:
        counts = ", ".join(f"'{name}' {count}" for name, count in classes.items())
        raise CompileError(f"the exits have different numbers of classes: {counts}; select exits with --exits")
    sizes = {name: "x".join(map(str, array.shape[2:])) for name, array in logits.items()}
    if len(set(sizes.values())) > 1:
        maps = ", ".join(f"'{name}' {size}" for name, size in sizes.items())
        raise CompileError(
            f"the exits' maps have different sizes: {maps}; resize them in the model, because a prediction of an early "
            "exit replaces one of the final exit"
        )


def _check_values(logits: Logits) -> None:
    for name, array in logits.items():
        bad = int((~np.isfinite(array.reshape(len(array), -1))).any(axis=1).sum())
        if bad:
            raise CompileError(
                f"exit '{name}' is NaN or infinite on {bad} of {len(array)} samples; check the model (the softmax of a "
                "row that minus infinity masks entirely is NaN), or give real samples with --example"
            )
