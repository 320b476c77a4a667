"""Data files and arrays of samples: what a model takes, true classes, and the errors that name what does not match."""

from edgeexit.datasets.dataset import Dataset, as_dataset, load_arrays, load_dataset
from edgeexit.datasets.inputs import Inputs, check_finite, check_inputs
from edgeexit.datasets.labels import IGNORED, LABELS, IgnoredLabels, counted_mask

__all__ = [
    "IGNORED",
    "LABELS",
    "Dataset",
    "IgnoredLabels",
    "Inputs",
    "as_dataset",
    "check_finite",
    "check_inputs",
    "counted_mask",
    "load_arrays",
    "load_dataset",
]
