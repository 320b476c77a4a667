"""Plans the stages of a normalised graph: describes the graph to the split, and finds which values can be carried."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import prod
from typing import NamedTuple

import msgspec
import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.exits.companions import Companions, tensors_by_exit
from edgeexit.compiler.extract import values_read_by
from edgeexit.compiler.graph import BATCH, names_in, unique_name
from edgeexit.compiler.splitting.batch_axis import PROBE_BATCHES, BatchAxis, BatchedValue
from edgeexit.compiler.splitting.recompute import is_random, moves_data, recompute_mode, selects
from edgeexit.compiler.splitting.split import (
    CarryCandidate,
    DataflowGraph,
    GraphNode,
    StagePlan,
    carry_candidates,
    split,
)
from edgeexit.compiler.symbolic_shapes import (
    input_symbolic_dims,
    shape_node_dims,
    static_or_symbolic,
    symbolic_dims_of,
)
from edgeexit.compiler.unpack.blocker import find_blocker

_EXPENSIVE_WEIGHT_BYTES = 1 << 16
"""A node that reads more bytes of weights is not cheap: two stages would both hold the weights in memory."""

FindBatch = Callable[[Sequence[str]], Mapping[str, BatchedValue | None]]
"""Names of values -> where the batch is in each; None for a value without rows for each sample."""


class Carry(NamedTuple):
    """A value that crosses from one stage to later ones, batch first."""

    spec: TensorSpec
    """The tensor between the stages; it has another name than in the model if it has another shape.

    Its dimensions are the batch, the factors that are folded into the batch, and the other dimensions in order."""
    batch: BatchAxis
    """Axis of the batch in the model, and the factors that are folded into it."""
    bytes_per_sample: int
    """Bytes per sample, with symbolic dimensions at their sizes in the probe samples."""


class SplitPlan(NamedTuple):
    """The split of a graph."""

    stages: tuple[StagePlan, ...]
    carries: dict[str, Carry]
    """Name of a value in the model -> how it is carried; includes the model inputs."""


def check_exits(graph: ir.Graph, exits: Sequence[str], companions: Companions = ()) -> None:
    """Raise CompileError for an exit that depends on no input, equals another exit, or adds no work.

    `exits` are all exits of the graph, shallow to deep.
    """
    _flow(graph, exits, companions)


def plan_stages(graph: ir.Graph, find_batch: FindBatch, companions: Companions = ()) -> SplitPlan:
    """Plan the stages of a normalised graph such that the live tensors have the fewest bytes at every cut.

    The runtime removes the samples that exit, so a value can be carried only if it has rows for each sample. Other
    values (shapes, masks for all samples) are recomputed in the stages that need them.

    Args:
        graph: graph of the full model.
        find_batch: runs the model and returns where the batch is in each of the named values.
        companions: the outputs of the graph that are no exits.

    Raises CompileError if a value that cannot be carried can only be recomputed with a matmul, a conv or a random
    operator.

    """
    tensors = {companion.tensor for companion in companions}
    exits = [str(value.name) for value in graph.outputs if value.name not in tensors]
    flow = _flow(graph, exits, companions)
    inferred = {str(value.name): value.shape for node in graph for value in node.outputs}
    inferred |= {str(value.name): value.shape for value in graph.inputs}
    input_dims = input_symbolic_dims(graph)
    taken = names_in(graph)
    carries: dict[str, Carry | None] = {}
    candidates: dict[str, CarryCandidate | None] = {}
    while unknown := sorted(carry_candidates(flow, candidates) - candidates.keys()):
        for name, batched in find_batch(unknown).items():
            carry = None if batched is None else _carry(name, batched, inferred[name], input_dims, taken)
            carries[name] = carry
            candidates[name] = (
                None
                if carry is None
                else CarryCandidate(carry.bytes_per_sample, symbolic_dims_of(carry.spec.shape) & input_dims)
            )
    stages = split(flow, candidates)
    carried = flow.inputs + flow.in_graph_order({name for stage in stages for name in stage.live_before})
    found = {name: carry for name in carried if (carry := carries.get(name))}
    return SplitPlan(stages, _name_dimensions(found, input_dims))


def _flow(graph: ir.Graph, exits: Sequence[str], companions: Companions) -> DataflowGraph:
    return DataflowGraph(
        _describe(graph),
        inputs=[str(value.name) for value in graph.inputs],
        exits=exits,
        companions=tensors_by_exit(companions),
        find_blocker=lambda exit_name: find_blocker(graph, exit_name),
    )


def _describe(graph: ir.Graph) -> list[GraphNode]:
    """Return the nodes of a graph as plain data."""
    input_dims = input_symbolic_dims(graph)
    weights = {str(v.name): 0 if v.const_value is None else v.const_value.nbytes for v in graph.initializers.values()}
    described = []
    for node in graph:
        inputs = tuple(str(value.name) for value in values_read_by(node))
        outputs = tuple(str(value.name) for value in node.outputs if value.name)
        recompute = recompute_mode(node)
        weight_bytes = sum(weights.get(name, 0) for name in inputs)
        if all(name in weights for name in inputs) and not is_random(node):
            weights |= dict.fromkeys(outputs, weight_bytes)
        elif recompute == "freely" and weight_bytes > _EXPENSIVE_WEIGHT_BYTES:
            recompute = "if needed"
        dims = shape_node_dims(node, input_dims)
        described.append(
            GraphNode(
                inputs=inputs if dims is None else (),
                outputs=outputs,
                recompute=recompute,
                stays_with_inputs=node.op_type == "QuantizeLinear",
                is_alias=node.op_type == "Identity",
                moves_data=moves_data(node),
                selects=selects(node),
                is_random=is_random(node),
                shape_of=None if dims is None else inputs[0],
                symbolic_dims=dims or frozenset(),
                label=f"{node.op_type} '{node.name}'" if node.name else f"a {node.op_type}",
            )
        )
    return described


def _carry(
    name: str, value: BatchedValue, inferred: ir.Shape | None, input_dims: AbstractSet[str], taken: set[str]
) -> Carry:
    """Return how a value is carried: the batch first, then the factors that are folded into it."""
    batch = value.batch
    dims = inferred if inferred is not None and len(inferred) == len(value.shape) else [None] * len(value.shape)
    rest = [static_or_symbolic(*pair, input_dims) for pair in zip(value.shape, ir.Shape(dims), strict=True)]
    del rest[batch.axis]
    is_same = batch.axis == 0 and not batch.factors
    return Carry(
        TensorSpec(
            name=name if is_same else unique_name(f"{name}.batch_first", taken),
            dtype=value.dtype,
            shape=(BATCH, *batch.factors, *rest),
        ),
        batch,
        bytes_per_sample=prod(value.shape) // PROBE_BATCHES[0] * np.dtype(value.dtype).itemsize,
    )


def _name_dimensions(carries: Mapping[str, Carry], input_dims: AbstractSet[str]) -> dict[str, Carry]:
    """Give every symbolic dimension of the carries a name that a user can set a range for.

    A dimension of an input keeps its name. Any other dimension is named after the first carry that has it and the axis.
    Its name from shape inference would mean nothing to users, and two dimensions without a name may differ in size.
    """
    renamed = {name: name for name in input_dims}
    named = {}
    for value, carry in carries.items():
        shape: list[int | str] = []
        for axis, size in enumerate(carry.spec.shape):
            new = unique_name(f"{carry.spec.name}.{axis}", set(input_dims))
            shape.append(size if isinstance(size, int) else renamed.setdefault(size, new) if size else new)
        spec = msgspec.structs.replace(carry.spec, shape=tuple(shape))
        named[value] = carry._replace(spec=spec)
    return named
