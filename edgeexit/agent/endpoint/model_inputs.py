"""Checks the tensors of a request against the model's inputs before their data is decoded."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.datasets import check_inputs
from edgeexit.errors import DataError

_WHERE = "the request"
_FLOATS = (np.dtype("<f4"), np.dtype("<f8"))


class ModelInputs:
    """The inputs that the model takes.

    Attributes:
        names: their names.
        are_floats: True if all are FP32 or FP64.

    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.names = tuple(spec.name for spec in specs)
        self._specs = {spec.name: (spec, np.dtype(spec.dtype)) for spec in specs}

        self.are_floats = all(dtype in _FLOATS for _, dtype in self._specs.values())

    def check(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Raise DataError if the model does not take an input of this dtype and shape. `name` is one of `names`."""
        spec, expected = self._specs[name]
        if dtype == expected and len(shape) == len(spec.shape) and shape[0]:
            for size, wanted in zip(shape, spec.shape, strict=True):
                if size != wanted and not isinstance(wanted, str):
                    break
            else:
                return
        try:
            stand_in = np.broadcast_to(np.zeros((), dtype=dtype), shape)  # has a shape, and takes no memory
        except ValueError as error:
            raise DataError(f"{_WHERE}: '{name}' has shape {list(shape)}, which no tensor has") from error
        check_inputs({name: stand_in}, [spec], where=_WHERE)
