"""Writes the stage files of a plan, each with its readout, and returns their specifications."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import StageSpec, TensorSpec
from edgeexit.compiler.blocked_layout import keep_blocked_layout
from edgeexit.compiler.exits.companion_values import describe_companions
from edgeexit.compiler.exits.run import Logits
from edgeexit.compiler.full_model import FullModel
from edgeexit.compiler.graph import BATCH, check, infer_shapes, opset_of
from edgeexit.compiler.opset.lowering import lower_opset
from edgeexit.compiler.readout import add_readout
from edgeexit.compiler.splitting.build_stage import build_stage
from edgeexit.compiler.splitting.plan import SplitPlan
from edgeexit.compiler.splitting.split import StagePlan
from edgeexit.compiler.symbolic_shapes import input_symbolic_dims, static_or_symbolic
from edgeexit.compiler.weights import save_graph


def write_stages(full_model: FullModel, plan: SplitPlan, folder: Path, *, opset: int, blocks: bool) -> list[StageSpec]:
    """Build, check and write every stage to `folder`, next to the weights; return the specifications with `macs=0`.

    Args:
        full_model: the model to split.
        plan: the split of its graph.
        folder: folder of the bundle.
        opset: newest operator set that the stages may use.
        blocks: insert poolings that return feature maps to the blocked layout of ONNX Runtime after a cut.

    Raises CompileError for a stage that cannot be expressed in `opset`, is not valid ONNX, or cannot be written.

    """
    model = full_model.model
    opset = min(opset, opset_of(model))
    input_dims = input_symbolic_dims(model.graph)
    companions = describe_companions(model.graph, full_model.companions, full_model.companion_values)
    specs = []
    for index in range(len(plan.stages)):
        built = build_stage(model, plan, index)
        spec = _describe(built.graph, plan, index, full_model.logits, input_dims)
        own_companions = {
            each.name: companions[each.tensor] for each in full_model.companions if each.exit == spec.exit.name
        }
        spec = msgspec.structs.replace(spec, companions=own_companions)
        _set_shapes(built.graph, own_companions.values())
        add_readout(built.graph, built.graph.outputs[-1], task=full_model.exit_format.task, classes=full_model.classes)
        infer_shapes(built)
        if blocks:
            keep_blocked_layout(built.graph)
        lower_opset(built, opset)
        check(built, what=spec.name)
        save_graph(built, folder / spec.file)
        specs.append(spec)
    return specs


def with_costs(spec: StageSpec, stage: StagePlan, counts: Sequence[int | None]) -> StageSpec:
    """Return a stage's specification with its cost.

    `counts` is the result of `count_macs` for the full model; nodes of unknown cost count as 0.
    """
    return msgspec.structs.replace(spec, macs=sum(counts[index] or 0 for index in stage.nodes))


def _describe(graph: ir.Graph, plan: SplitPlan, index: int, logits: Logits, input_dims: Collection[str]) -> StageSpec:
    """Return the specification of a stage, and set the shape of its exit in the graph."""
    stage = plan.stages[index]
    carry_in = [plan.carries[name].spec.name for name in stage.carry_in]
    exit_value = graph.outputs[-1]
    shape = _exit_shape(exit_value, logits, input_dims)
    exit_value.type, exit_value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    return StageSpec(
        name=f"stage{index}",
        file=f"stage{index}.onnx",
        exit=TensorSpec(name=str(exit_value.name), dtype="float32", shape=shape),
        inputs=tuple(str(value.name) for value in graph.inputs if value.name not in carry_in),
        carry_in=tuple(carry_in),
        carry_out=tuple(plan.carries[name].spec for name in stage.carry_out),
        macs=0,
    )


def _set_shapes(graph: ir.Graph, specs: Iterable[TensorSpec]) -> None:
    """Set the types and shapes of a graph's outputs."""
    outputs = {value.name: value for value in graph.outputs}
    for spec in specs:
        outputs[spec.name].type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
        outputs[spec.name].shape = ir.Shape(spec.shape)


def _exit_shape(value: ir.Value, logits: Logits, input_dims: Collection[str]) -> tuple[int | str, ...]:
    """Return the shape of an exit: batch and classes, and for segmentation height and width.

    A symbolic dimension that no input has is named after the exit and the axis.
    """
    name = str(value.name)
    found = logits[name].shape
    rank = len(found)
    inferred = value.shape if value.shape is not None and len(value.shape) == rank else ir.Shape([None] * rank)
    shape: list[int | str] = [BATCH, found[1]]
    for axis in range(2, rank):
        size = static_or_symbolic(found[axis], inferred[axis], input_dims)
        shape.append(size if isinstance(size, int) or size in input_dims else f"{name}.{axis}")
    return tuple(shape)
