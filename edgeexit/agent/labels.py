"""True classes that an application gives: one a sample, and such as the model has."""

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.agent.policy_store import one_line
from edgeexit.datasets import Inputs
from edgeexit.errors import DataError

Labels = Sequence[int] | npt.NDArray[np.integer[Any]]
"""[B] class of each sample, negative where it is not known."""


def check_labels(labels: Labels, *, whose: str, classes: int) -> list[int]:
    """Return labels as whole numbers. Raises DataError, with `whose` they are, for what is none or no class."""
    try:
        found = [index(value) for value in labels]
    except TypeError as error:
        raise DataError(
            f"labels of {whose} are no whole numbers ({one_line(str(error))}); give each sample its class, or -1 "
            "where it is not known"
        ) from error
    for value in found:
        if value >= classes:
            raise DataError(f"label {value} is given for {whose}; the model has {classes} classes, from 0")
    return found


def check_batch_labels(labels: Labels, inputs: Inputs, *, classes: int) -> list[int]:
    """Do as `check_labels`, and refuse what is not one a sample; the inputs are checked where they are run."""
    checked = check_labels(labels, whose="a sample", classes=classes)
    for array in inputs.values():
        if np.shape(array)[:1] not in {(), (len(checked),)}:
            raise DataError(f"labels holds {len(checked)} classes for {len(array)} samples; give one each")
    return checked
