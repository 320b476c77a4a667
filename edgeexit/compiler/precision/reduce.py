"""Writes a model's precision into its graph: chooses what stays in fp32, and has the rest reduced."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from edgeexit.bundle.manifest import Precision
from edgeexit.compiler.export.normal_form import normalise
from edgeexit.compiler.graph import bodies, free_name, names_in
from edgeexit.compiler.precision.extremes import overflowing_nodes
from edgeexit.compiler.precision.half import to_half
from edgeexit.compiler.precision.quantise import Placement, to_int8
from edgeexit.compiler.precision.widths import wide_nodes
from edgeexit.compiler.reasons import quietly
from edgeexit.datasets import Dataset, Inputs
from edgeexit.errors import CompileError

_NAMED = 6
"""How many names an error lists."""


def reduce_precision(
    model: ir.Model,
    precision: Precision,
    *,
    samples: Inputs | None = None,
    calibration: Dataset | None = None,
    keep_fp32: Sequence[str] = (),
    folder: Path,
    placement: Placement = "around",
    on_warning: Callable[[str], None] = lambda _: None,
) -> ir.Model:
    """Return a normalised model in another precision, normalised again; inputs and exits keep name, shape and type.

    Every type is explicit in the graph, so that ONNX Runtime and a strongly typed TensorRT network run the same
    numbers. `fp32` returns the model as it is.

    Args:
        model: stays as it was.
        precision: of what is inside.
        samples: real or random; what comes near the end of float16's range on them stays in fp32.
        calibration: real samples, used before `samples`; `int8` cannot do without.
        keep_fp32: patterns (`*`, `?`, `[...]`) of nodes that stay in fp32, matched with the name and the operator of
            each node, and with the names of its outputs and weights.
        folder: scratch files stand here meanwhile.
        placement: where `int8` has its Q/DQ pairs.
        on_note: told what was not done quite as asked.

    Raises CompileError: a pattern that fits nothing or has nothing to keep, no calibration data, nothing to quantise.
    DataError: calibration data with NaN or infinity.

    """
    if precision == "fp32":
        if keep_fp32:
            raise CompileError(f"--keep-fp32 '{keep_fp32[0]}': all is kept in fp32; add --precision fp16 or int8")
        return model
    exits = [str(value.name) for value in model.graph.outputs]
    reduced = model.clone()
    with quietly():
        passes.InlinePass()(reduced)
        optimizer.fold_constants(reduced)
    _name_nodes(reduced.graph)
    kept = _find(reduced.graph, keep_fp32)
    if precision == "fp16":
        seen = samples if calibration is None else calibration.inputs
        if seen is not None:
            wide = wide_nodes(reduced, kept=kept)
            kept |= overflowing_nodes(reduced, seen, kept=wide, folder=folder, on_warning=on_warning)
        to_half(reduced, kept=kept, on_warning=on_warning)
    else:
        if calibration is None:
            raise CompileError("int8 takes its scales from real samples: give some 128 with --calibration FILE.npz")
        reduced = to_int8(reduced, calibration, kept=kept, folder=folder, placement=placement, on_warning=on_warning)
    normalise(reduced, exits=exits)
    return reduced


def _name_nodes(graph: ir.Graph) -> None:
    """Give every node a name of its own: patterns and the quantiser go by it."""
    taken = names_in(graph)
    seen: set[str] = set()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if not node.name or node.name in seen:
            node.name = free_name(f"{node.op_type}_{node.outputs[0].name}", taken)
        seen.add(node.name)


def _find(graph: ir.Graph, patterns: Sequence[str]) -> set[ir.Node]:
    """Return the nodes that patterns fit; those inside a body that fits are among them."""
    names = {node: _names(node) for node in ir.traversal.RecursiveGraphIterator(graph)}
    found: set[ir.Node] = set()
    for pattern in patterns:
        fits = {node for node, own in names.items() if any(fnmatchcase(name, pattern) for name in own)}
        if not fits:
            some = ", ".join(f"'{node.name}'" for node in list(names)[:_NAMED])
            operators = ", ".join(sorted({node.op_type for node in names}))
            raise CompileError(
                f"--keep-fp32 '{pattern}' fits no node, operator, output or weight; there are {some}, ..., and the "
                f"operators {operators}"
            )
        found |= fits
        for node in fits:
            for body in bodies(node):
                found |= set(ir.traversal.RecursiveGraphIterator(body))
    return found


def _names(node: ir.Node) -> list[str]:
    weights = [value.name for value in node.inputs if value is not None and value.is_initializer()]
    outputs = [value.name for value in node.outputs]
    return [name for name in (node.name, node.op_type, *outputs, *weights) if name]
