"""Plans the stages of a normalised graph: describes it to the split, and finds out what may be kept between stages."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import prod
from typing import Final, NamedTuple

import msgspec
import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.extract import reads_of
from edgeexit.compiler.graph import BATCH, free_name, names_in
from edgeexit.compiler.splitting.recompute import is_random, may_run_again
from edgeexit.compiler.splitting.shapes import input_words, size_or_word, words_needed, words_of
from edgeexit.compiler.splitting.split import Cut, DataflowGraph, Kept, Node, candidates, split

PROBE_BATCHES: Final = (2, 3)
"""Sizes of the two batches that tell which dimension of a value is the batch."""

_DEAR_WEIGHTS = 1 << 16
"""Bytes of weights from which on a node is not cheap: the runtimes of two stages would both hold them."""

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Value name -> dtype name and shape, in one run."""


class Carry(NamedTuple):
    """A value that crosses from one stage to later ones, batch first."""

    spec: TensorSpec
    """How it crosses: transposed, under a name of its own, where the graph has the batch on a later axis."""
    batch_axis: int
    size: int
    """Bytes a sample, at the lengths of the samples where a dimension is known only at run time."""


class SplitPlan(NamedTuple):
    """The split of a graph."""

    cuts: tuple[Cut, ...]
    carries: dict[str, Carry]
    """By the value's name in the graph; the inputs of the model are among them."""


def check_exits(graph: ir.Graph) -> None:
    """Raise CompileError for an exit that depends on no input, equals another or adds no work after those before it."""
    _flow(graph)


def plan_stages(graph: ir.Graph, look: Callable[[Sequence[str]], Sequence[Shapes]]) -> SplitPlan:
    """Decide the stages of a normalised graph.

    The runtime drops the samples that have left, so a value crosses a cut only when it has a row a sample. Whatever
    has not (shapes, masks for all) is made again in the stages that need it, from values that have. Of all the ways
    that are left, every cut takes the one that keeps the fewest bytes.

    Args:
        graph: the whole model.
        look: runs the model on batches of `PROBE_BATCHES` samples and returns the shapes of the values it is asked for.

    Raises CompileError where a value without rows would cost a product to make again.

    """
    flow = _flow(graph)
    inferred = {str(value.name): value.shape for node in graph for value in node.outputs}
    inferred |= {str(value.name): value.shape for value in graph.inputs}
    known = input_words(graph)
    taken = names_in(graph)
    carries: dict[str, Carry | None] = {}
    kept: dict[str, Kept | None] = {}
    while unknown := sorted(candidates(flow, kept) - kept.keys()):
        first, second = look(unknown)
        for name in unknown:
            seen = first.get(name), second.get(name)
            carry = _carry(name, seen, inferred[name], known, taken)
            carries[name] = carry
            kept[name] = None if carry is None else Kept(carry.size, words_of(carry.spec.shape) & known)
    cuts = split(flow, kept)
    crossing = flow.inputs + flow.in_order({name for cut in cuts for name in cut.kept})
    return SplitPlan(cuts, _name_dimensions({name: carry for name in crossing if (carry := carries.get(name))}, known))


def _flow(graph: ir.Graph) -> DataflowGraph:
    return DataflowGraph(
        _describe(graph),
        inputs=[str(value.name) for value in graph.inputs],
        exits=[str(value.name) for value in graph.outputs],
    )


def _describe(graph: ir.Graph) -> list[Node]:
    """Return the graph as splitting sees it."""
    known = input_words(graph)
    weights = {str(v.name): 0 if v.const_value is None else v.const_value.nbytes for v in graph.initializers.values()}
    described = []
    for node in graph:
        reads = tuple(str(value.name) for value in reads_of(node))
        makes = tuple(str(value.name) for value in node.outputs if value.name)
        again = may_run_again(node)
        held = sum(weights.get(name, 0) for name in reads)
        if all(name in weights for name in reads) and not is_random(node):
            weights |= dict.fromkeys(makes, held)
        elif again == "freely" and held > _DEAR_WEIGHTS:
            again = "if needed"
        words = words_needed(node, known)
        described.append(
            Node(
                reads=reads if words is None else (),
                makes=makes,
                again=again,
                stays=node.op_type == "QuantizeLinear",
                alias=node.op_type == "Identity",
                random=is_random(node),
                shape_of=None if words is None else reads[0],
                words=words or frozenset(),
                title=f"{node.op_type} '{node.name}'" if node.name else f"a {node.op_type}",
            )
        )
    return described


def _carry(
    name: str,
    seen: tuple[tuple[str, tuple[int, ...]] | None, tuple[str, tuple[int, ...]] | None],
    inferred: ir.Shape | None,
    known: AbstractSet[str],
    taken: set[str],
) -> Carry | None:
    """Say how a value crosses, from its shapes in two batches of `PROBE_BATCHES`, or None: not by rows."""
    first, second = seen
    if first is None or second is None or len(first[1]) != len(second[1]) or np.dtype(first[0]).hasobject:
        return None
    sizes = list(zip(first[1], second[1], strict=True))
    if [pair for pair in sizes if pair[0] != pair[1]] != [PROBE_BATCHES]:
        return None
    batch_axis = sizes.index(PROBE_BATCHES)
    told = inferred if inferred is not None and len(inferred) == len(sizes) else ir.Shape([None] * len(sizes))
    shape = [size_or_word(pair[0], size, known) for pair, size in zip(sizes, told, strict=True)]
    del shape[batch_axis]
    crossing = name if batch_axis == 0 else free_name(f"{name}.batch_first", taken)
    size = prod(first[1]) // PROBE_BATCHES[0] * np.dtype(first[0]).itemsize
    return Carry(TensorSpec(name=crossing, dtype=first[0], shape=(BATCH, *shape)), batch_axis, size)


def _name_dimensions(carries: Mapping[str, Carry], known: AbstractSet[str]) -> dict[str, Carry]:
    """Name the dimensions that differ from run to run, for whoever has to say how large they get.

    One that an input has too keeps that word. Any other is called after the first tensor that has it, and the axis:
    inference's own words are no names for people, and two dimensions of which it knows nothing are not the same one.
    """
    words = {word: word for word in known}
    named = {}
    for value, carry in carries.items():
        shape: list[int | str] = []
        for axis, size in enumerate(carry.spec.shape):
            own = free_name(f"{carry.spec.name}.{axis}", set(known))
            shape.append(size if isinstance(size, int) else words.setdefault(size, own) if size else own)
        spec = msgspec.structs.replace(carry.spec, shape=tuple(shape))
        named[value] = carry._replace(spec=spec)
    return named
