"""Refuses requests whose results would take far more memory than their bodies."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING

import numpy as np

from edgeexit.agent.endpoint.refusal import RefusalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeexit.bundle.manifest import Manifest, TensorSpec
    from edgeexit.datasets import Inputs


class ResultLimit:
    """Limits the logits and companions of one request; a single sample is accepted whatever their size.

    Args:
        manifest: describes the outputs of the stages.
        max_bytes: maximum bytes of the results of one request.

    """

    def __init__(self, manifest: Manifest, max_bytes: int) -> None:
        self._inputs = manifest.inputs
        self._results = [(stage.exit, *stage.companions.values()) for stage in manifest.stages]
        self._max_bytes = max_bytes

    def check(self, inputs: Inputs) -> None:
        """Raise RefusalError if the results of these inputs, which fit the model, would be too large."""
        samples = 0
        for array in inputs.values():
            samples = max(samples, array.shape[0])
        if samples <= 1:
            return
        dimensions = {
            name: size
            for spec in self._inputs
            if spec.name in inputs
            for name, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
            if isinstance(name, str)
        }
        size = samples * max(sum(_sample_bytes(spec, dimensions) for spec in result) for result in self._results)
        if size > self._max_bytes:
            raise RefusalError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the results of {samples} samples would have {size} bytes, but may have at most {self._max_bytes}; "
                "send fewer samples, or raise max_body_bytes under [endpoint]",
            )


def _sample_bytes(spec: TensorSpec, dimensions: Mapping[str, int]) -> int:
    """Return the bytes per sample; a dimension that no input has counts as 1."""
    sizes = [dimensions.get(size, 1) if isinstance(size, str) else size for size in spec.shape[1:]]
    return math.prod(sizes) * np.dtype(spec.dtype).itemsize
