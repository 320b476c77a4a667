"""Declares the inputs that are attention masks, whose values may be minus infinity."""

from collections.abc import Sequence

import numpy as np

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.export.model import ExportedModel
from edgeexit.errors import CompileError


def check_masks(inputs: Sequence[TensorSpec], masks: Sequence[str]) -> None:
    """Raise CompileError for a mask that is not a floating-point input."""
    dtypes = {spec.name: spec.dtype for spec in inputs}
    for name in masks:
        if name not in dtypes:
            names = ", ".join(f"'{known}'" for known in dtypes)
            raise CompileError(f"--mask '{name}' is no input of the model; it has {names}")
        if np.dtype(dtypes[name]).kind != "f":
            raise CompileError(
                f"--mask '{name}' is {dtypes[name]}; only a floating-point input can hold minus infinity"
            )


def declare_masks(exported: ExportedModel, masks: Sequence[str], *, is_random: bool) -> ExportedModel:
    """Return an exported model whose inputs `masks` may hold minus infinity.

    If the samples are random, those of the masks become 0 or minus infinity; the first element along the last axis
    stays 0, so that no row is masked entirely. Raises CompileError as `check_masks` does.
    """
    check_masks(exported.inputs, masks)
    samples = dict(exported.samples)
    rng = np.random.default_rng(0)
    for name in masks if is_random else ():
        masked = rng.integers(0, 2, size=samples[name].shape).astype(np.bool_)
        masked[..., :1] = False
        samples[name] = np.where(masked, -np.inf, 0).astype(samples[name].dtype)
    return exported._replace(samples=samples, masks=tuple(masks))
