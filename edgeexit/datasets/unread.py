"""Finds the arrays that nobody reads: labels or an input under another name."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import TensorSpec

_LABEL_NAMES: Final = frozenset(
    {
        "annotation", "annotations", "class", "classes", "classid", "classids", "gt", "groundtruth", "label", "labels",
        "lbl", "lbls", "target", "targets", "truelabel", "truelabels", "y", "ys", "ytest", "ytrue", "yval",
    }
)  # fmt: skip
_MAX_NAMES: Final = 8

_Arrays = Mapping[str, npt.NDArray[Any]]


def unread_warning(
    unread: _Arrays, *, where: str, label_name: str | None, rank: int, samples: int, inputs: Sequence[str]
) -> str | None:
    """Return one line that names the arrays that are not read, and how to rename them; None if there are none.

    Args:
        unread: the arrays that are not read.
        where: name of the data in the text.
        label_name: name that labels must have; None if the labels are present or not needed.
        rank: number of dimensions of labels.
        samples: number of samples.
        inputs: names of the model's inputs.

    """
    if not unread:
        return None
    names = _names(list(unread))
    verb = "is" if len(unread) == 1 else "are"
    if label_name is not None:
        meant = [name for name, array in unread.items() if _may_be_labels(name, array, rank, samples)]
        if meant:
            named = meant[0] if len(meant) == 1 else None
            which = "it has" if len(unread) == 1 else f"'{named}' has" if named is not None else "one of them has"
            return (
                f"{where}: {names} {verb} not read, and there is no array '{label_name}'; if {which} the true classes, "
                f"rename it to '{label_name}'"
            )
    return f"{where}: {names} {verb} not read; the model's inputs are {_names(inputs)}"


def closest_array(spec: TensorSpec, unread: _Arrays) -> str | None:
    """Return the name of the array that probably is the input `spec` under another name; None if none is likely."""
    by_lower = {name.lower(): name for name in unread}
    close = difflib.get_close_matches(spec.name.lower(), by_lower, n=1)
    if close:
        return by_lower[close[0]]
    fitting = [name for name, array in unread.items() if _fits(array, spec)]
    return fitting[0] if len(fitting) == 1 else None


def _may_be_labels(name: str, array: npt.NDArray[Any], rank: int, samples: int) -> bool:
    """Return True if an array has a name or the form (integers, one per prediction) of labels."""
    if re.sub(r"[^a-z]", "", name.lower()) in _LABEL_NAMES:
        return True
    return isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.ndim == rank and len(array) == samples


def _fits(array: npt.NDArray[Any], spec: TensorSpec) -> bool:
    return (
        isinstance(array, np.ndarray)
        and array.dtype == np.dtype(spec.dtype)
        and array.ndim == len(spec.shape)
        and all(isinstance(size, str) or size == found for size, found in zip(spec.shape, array.shape, strict=True))
    )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"
