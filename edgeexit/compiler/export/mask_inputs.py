"""Declares the inputs that are attention masks, whose values may be minus infinity."""

from collections.abc import Sequence

import numpy as np

from edgeexit.compiler.export.model import ExportedModel
from edgeexit.errors import CompileError


def declare_masks(exported: ExportedModel, masks: Sequence[str], *, is_random: bool) -> ExportedModel:
    """Return an exported model whose inputs `masks` may hold minus infinity.

    If the samples are random, those of the masks become 0 or minus infinity; the first element along the last axis
    stays 0, so that no row is masked entirely. Raises CompileError for a name that is not a floating-point input.
    """
    samples = dict(exported.samples)
    specs = {spec.name: spec for spec in exported.inputs}
    rng = np.random.default_rng(0)
    for name in masks:
        if name not in specs:
            names = ", ".join(f"'{known}'" for known in specs)
            raise CompileError(f"--mask '{name}' is no input of the model; it has {names}")
        dtype = specs[name].dtype
        if np.dtype(dtype).kind != "f":
            raise CompileError(f"--mask '{name}' is {dtype}; only a floating-point input can hold minus infinity")
        if is_random:
            shape = samples[name].shape
            masked = rng.integers(0, 2, size=shape).astype(np.bool_)
            masked[..., :1] = False
            samples[name] = np.where(masked, -np.inf, 0).astype(dtype)
    return exported._replace(samples=samples, masks=tuple(masks))
