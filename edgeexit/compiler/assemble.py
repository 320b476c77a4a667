"""Writes the stages of a plan to files, with their readouts, and counts what they cost."""

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import onnx_ir as ir

from edgeexit.bundle.manifest import StageSpec, TensorSpec
from edgeexit.compiler.answers import ExitForm, Logits
from edgeexit.compiler.blocked_layout import keep_blocks
from edgeexit.compiler.graph import BATCH, check, infer_shapes, opset_of
from edgeexit.compiler.opset.lowering import lower_opset
from edgeexit.compiler.readout import add_readout
from edgeexit.compiler.splitting.building import build_stage
from edgeexit.compiler.splitting.shapes import input_words, size_or_word
from edgeexit.compiler.splitting.split import Cut
from edgeexit.compiler.splitting.stages import SplitPlan
from edgeexit.compiler.weights import save_graph


def write_stages(
    model: ir.Model, plan: SplitPlan, form: ExitForm, answers: Logits, folder: Path, *, opset: int, blocks: bool
) -> list[StageSpec]:
    """Build, check and write every stage to `folder`, where the weights are, in `opset` at most; costs are left at 0.

    `answers` of the whole model say how big the exits are. With `blocks`, feature maps stay in the layout of ONNX
    Runtime's convolutions on x86-64 across the cuts. Raises CompileError.
    """
    specs = []
    opset = min(opset, opset_of(model))
    known = input_words(model.graph)
    for index in range(len(plan.cuts)):
        built = build_stage(model, plan, index)
        spec = _describe(built.graph, plan, index, answers, known)
        add_readout(built.graph, built.graph.outputs[-1], task=form.task, classes=answers[spec.exit.name].shape[1])
        infer_shapes(built)
        if blocks:
            keep_blocks(built.graph)
        lower_opset(built, opset)
        check(built, what=spec.name)
        save_graph(built, folder / spec.file)
        specs.append(spec)
    return specs


def with_costs(spec: StageSpec, cut: Cut, counts: Sequence[int | None]) -> StageSpec:
    """Return a stage's specification with its cost; `counts` are those of the whole model's nodes."""
    return msgspec.structs.replace(spec, macs=sum(counts[index] or 0 for index in cut.nodes))


def _describe(graph: ir.Graph, plan: SplitPlan, index: int, answers: Logits, known: Collection[str]) -> StageSpec:
    """Return what a stage reads and makes, and say its exit's shape in the graph."""
    cut = plan.cuts[index]
    carry_in = [plan.carries[name].spec.name for name in cut.carry_in]
    exit_value = graph.outputs[-1]
    shape = _exit_shape(exit_value, answers, known)
    exit_value.type, exit_value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    return StageSpec(
        name=f"stage{index}",
        file=f"stage{index}.onnx",
        exit=TensorSpec(name=str(exit_value.name), dtype="float32", shape=shape),
        inputs=tuple(str(value.name) for value in graph.inputs if value.name not in carry_in),
        carry_in=tuple(carry_in),
        carry_out=tuple(plan.carries[name].spec for name in cut.carry_out),
        macs=0,
    )


def _exit_shape(value: ir.Value, answers: Logits, known: Collection[str]) -> tuple[int | str, ...]:
    """Return batch, classes and, to segment, height and width; a word where those are known at run time only.

    `known` are the words that the model's inputs have. What none of them has is called after the exit and the axis.
    """
    name = str(value.name)
    found = answers[name].shape
    told = value.shape if value.shape is not None and len(value.shape) == len(found) else ir.Shape([None] * len(found))
    shape: list[int | str] = [BATCH, found[1]]
    for axis in range(2, len(found)):
        size = size_or_word(found[axis], told[axis], known)
        shape.append(size if isinstance(size, int) or size in known else f"{name}.{axis}")
    return tuple(shape)
