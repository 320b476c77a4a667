"""Checks that samples do not influence each other where values are larger or smaller than those of the given samples.

An operator may mix the samples of a batch only for some values, as in `x / x.max().clamp(min=50)`. So each of several
samples with changed values runs in two batches of the same size, at the same position: among the others, and among
copies of itself. Equal sizes select equal kernels, so the results are equal to the last bits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeexit.compiler.graph import label_of
from edgeexit.compiler.samples import Arrays, repeat_to
from edgeexit.compiler.sessions import ReferenceSession, probe_values
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError

_FACTORS: Final = (1.0, 1000.0, -1000.0, 30.0, 0.01, -5.0)
"""Floats of the samples are multiplied by these factors, one for each row."""
_TOLERANCE: Final = 1e-4
"""Fraction of the largest number of a row."""


def check_independence_of_range(
    session: ReferenceSession, samples: Inputs, outputs: Sequence[str], *, model: ir.Model, folder: Path
) -> None:
    """Raise CompileError, which names the node, if a sample with changed values depends on the rest of its batch.

    Args:
        session: the full model.
        samples: input name -> [N, ...]; one sample is enough.
        outputs: outputs of the model to compare.
        model: the normalised graph of the full model.
        folder: folder with the weights of `model`, for temporary files.

    """
    if any(node.op_type == "DynamicQuantizeLinear" for node in model.graph):
        return  # its scale is of the batch
    mixed = {name: _changed(array) for name, array in repeat_to(samples, len(_FACTORS)).items()}
    try:
        together = session.run(mixed, outputs)
    except CompileError:
        return  # the model does not take such values
    for row in range(len(_FACTORS)):
        repeated = {name: np.repeat(array[row : row + 1], len(array), axis=0) for name, array in mixed.items()}
        try:
            alone = session.run(repeated, outputs)
        except CompileError:
            continue
        for name, one, other in zip(outputs, together, alone, strict=True):
            if one.shape != other.shape or _differs(one[row], other[row]):
                node = _first_mixing(model, [mixed, repeated], row, folder)
                raise CompileError(
                    f"{node} mixes the samples of a batch if their values are larger or smaller than the given ones, "
                    f"which changes '{name}'; compute per sample"
                )


def _changed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return other samples: floats times `_FACTORS`, other numbers in another order."""
    if array.dtype.kind != "f":
        shuffled: npt.NDArray[Any] = np.random.default_rng(0).permutation(array.reshape(-1)).reshape(array.shape)
        return shuffled
    factors = np.array(_FACTORS, dtype=array.dtype).reshape(-1, *[1] * (array.ndim - 1))
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: npt.NDArray[Any] = array * factors
    return scaled


def _differs(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Return True if two rows differ by more than rounding; a row that is not finite is not compared."""
    if one.dtype.kind != "f":
        return not np.array_equal(one, other)
    first, second = one.astype(np.float64), other.astype(np.float64)
    if not np.isfinite(second).all():
        return False
    scale = float(np.abs(second).max(initial=0))
    return not np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE * scale)


def _first_mixing(model: ir.Model, batches: Sequence[Arrays], row: int, folder: Path) -> str:
    """Return the label of the first node of which a row differs between two batches, or `the model`."""
    names = [str(value.name) for node in model.graph for value in node.outputs if value.name]
    try:
        one, other = probe_values(model, names, batches, folder=folder)
    except CompileError:
        return "the model"
    for node in model.graph:
        for name in (str(value.name) for value in node.outputs):
            arrays = one.get(name), other.get(name)
            if arrays[0] is None or arrays[1] is None or arrays[0].shape[:1] != (len(_FACTORS),):
                continue
            if arrays[0].shape == arrays[1].shape and _differs(arrays[0][row], arrays[1][row]):
                return label_of(node)
    return "the model"
