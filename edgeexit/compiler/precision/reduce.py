"""Converts a model to fp16 or int8: selects the nodes that stay in fp32, and converts the others."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from edgeexit.bundle.manifest import Precision
from edgeexit.compiler.graph import names_in, subgraphs_of, unique_name
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.normalise import normalise
from edgeexit.compiler.precision.fp16 import to_fp16
from edgeexit.compiler.precision.fp32_nodes import select_fp32_nodes
from edgeexit.compiler.precision.overflow import overflowing_nodes
from edgeexit.compiler.precision.quantise import Placement, to_int8
from edgeexit.datasets import Dataset, Inputs
from edgeexit.errors import CompileError
from edgeexit.progress import NO_PROGRESS, Progress

_EXAMPLES = 6
"""Number of node names in an error message."""


def check_precision(precision: Precision, keep_fp32: Sequence[str], *, has_samples: bool) -> None:
    """Raise CompileError for a pattern with precision `fp32`, and for `int8` without real samples."""
    if precision == "fp32" and keep_fp32:
        raise CompileError(f"--keep-fp32 '{keep_fp32[0]}': all nodes are in fp32; add --precision fp16 or int8")
    if precision == "int8" and not has_samples:
        raise CompileError("int8 needs real samples for its ranges: give about 128 with --calibration FILE.npz")


def reduce_precision(
    model: ir.Model,
    precision: Precision,
    *,
    samples: Inputs | None = None,
    calibration: Dataset | None = None,
    keep_fp32: Sequence[str] = (),
    folder: Path,
    placement: Placement = "around",
    masks: Sequence[str] = (),
    progress: Progress = NO_PROGRESS,
) -> ir.Model:
    """Return a model in another precision; names, shapes and types of inputs and exits do not change.

    All types are explicit in the graph, so ONNX Runtime and a strongly typed TensorRT network compute with the same
    types. The result is normalised. For `fp32` it is `model` itself.

    Args:
        model: a normalised model; it is not changed.
        precision: precision of the values between inputs and exits.
        samples: real or random samples; in `fp16`, nodes whose values come near float16's limit on them stay in fp32.
        calibration: real samples; required for `int8`, and used instead of `samples` in `fp16`.
        keep_fp32: patterns (`*`, `?`, `[...]`) of nodes that stay in fp32, matched against the name and the operator of
            each node and against the names of its outputs and weights.
        folder: folder for temporary files.
        placement: position of the Q/DQ pairs in `int8`.
        masks: names of the inputs whose values may be minus infinity.
        progress: receives a warning for everything that was not done exactly as requested.

    Raises CompileError if a pattern matches nothing, for a pattern with precision `fp32`, for `int8` without
    calibration data, or if the model cannot be quantised; DataError for calibration data with NaN or infinity.

    """
    check_precision(precision, keep_fp32, has_samples=calibration is not None)
    if precision == "fp32":
        return model
    exits = [str(value.name) for value in model.graph.outputs]
    reduced = model.clone()
    with silence_libraries():
        passes.InlinePass()(reduced)
        optimizer.fold_constants(reduced)
    _name_nodes(reduced.graph)
    kept = _matching_nodes(reduced.graph, keep_fp32)
    if precision == "fp16":
        probed = samples if calibration is None else calibration.inputs
        if probed is not None:
            expected = select_fp32_nodes(reduced, kept=kept)
            kept |= overflowing_nodes(reduced, probed, expected=expected, folder=folder, progress=progress)
        to_fp16(reduced, kept=kept, progress=progress)
    elif calibration is not None:
        reduced = to_int8(
            reduced, calibration, kept=kept, folder=folder, placement=placement, masks=masks, progress=progress
        )
    normalise(reduced, exits=exits)
    return reduced


def _name_nodes(graph: ir.Graph) -> None:
    """Give every node a unique name; patterns and the quantiser identify nodes by name."""
    taken = names_in(graph)
    seen: set[str] = set()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if not node.name or node.name in seen:
            node.name = unique_name(f"{node.op_type}_{node.outputs[0].name}", taken)
        seen.add(node.name)


def _matching_nodes(graph: ir.Graph, patterns: Sequence[str]) -> set[ir.Node]:
    """Return the nodes that match a pattern, and all nodes in the subgraphs of those nodes."""
    names_of = {node: _names(node) for node in ir.traversal.RecursiveGraphIterator(graph)}
    found: set[ir.Node] = set()
    for pattern in patterns:
        matches = {node for node, names in names_of.items() if any(fnmatchcase(name, pattern) for name in names)}
        if not matches:
            some = ", ".join(f"'{node.name}'" for node in list(names_of)[:_EXAMPLES])
            operators = ", ".join(sorted({node.op_type for node in names_of}))
            raise CompileError(
                f"--keep-fp32 '{pattern}' matches no node, operator, output or weight; some nodes are {some}, and "
                f"the operators are {operators}"
            )
        found |= matches
        for node in matches:
            for subgraph in subgraphs_of(node):
                found |= set(ir.traversal.RecursiveGraphIterator(subgraph))
    return found


def _names(node: ir.Node) -> list[str]:
    """Return the texts that a pattern can match: name, operator, outputs and weights."""
    weights = [value.name for value in node.inputs if value is not None and value.is_initializer()]
    outputs = [value.name for value in node.outputs]
    return [name for name in (node.name, node.op_type, *outputs, *weights) if name]
