"""Checks the true classes (labels) that an application passes: one class of the model per sample."""

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.datasets import Inputs
from edgeexit.errors import DataError
from edgeexit.log_text import one_line

Labels = Sequence[int] | npt.NDArray[np.integer[Any]]
"""[B] true class of each sample, negative if unknown."""


def check_labels(labels: Labels, *, owner: str, classes: int) -> list[int]:
    """Return labels as a list of int. Raises DataError for values that are not integers or not below `classes`.

    Args:
        labels: [B] classes, negative if unknown.
        owner: the batch or id that the labels belong to, for error messages.
        classes: number of classes of the model.

    """
    try:
        checked = [index(value) for value in labels]
    except TypeError as error:
        raise DataError(
            f"labels of {owner} are not integers ({one_line(str(error))}); pass one class per sample, or -1 if it is "
            "unknown"
        ) from error
    for value in checked:
        if value >= classes:
            raise DataError(
                f"label {value} of {owner} is out of range; the model has {classes} classes, numbered from 0"
            )
    return checked


def check_batch_labels(labels: Labels, inputs: Inputs, *, classes: int) -> list[int]:
    """Check labels as `check_labels` does, and that there is one per sample. Raises DataError."""
    checked = check_labels(labels, owner="the batch", classes=classes)
    for array in inputs.values():  # the runner checks the inputs themselves
        if np.shape(array)[:1] not in {(), (len(checked),)}:
            raise DataError(f"{len(checked)} labels were passed for {len(array)} samples; pass one label per sample")
    return checked
