"""Finds which regions of which values the parts of packed tensors need, and which matmuls and convolutions."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import onnx_ir as ir

from edgeexit.compiler.extract import values_read_by
from edgeexit.compiler.graph import subgraphs_of
from edgeexit.compiler.macs import is_matmul_or_conv
from edgeexit.compiler.symbolic_shapes import input_symbolic_dims, shape_node_dims
from edgeexit.compiler.unpack.pull import Operand, Pull, join_along
from edgeexit.compiler.unpack.regions import Region, at_axis, dims_of, is_full, is_slice, part_of
from edgeexit.compiler.unpack.rules import SELECTORS, pull_of

Need = tuple[ir.Value, Region]
"""A value and the region that is needed of it, which is not the full value."""

_MAX_NEEDS_PER_NODE: Final = 16
_MIN_NEEDS: Final = 1000
"""A graph with more needs than both limits stays as it is, because following them would take too long."""
_MAX_ROUNDS: Final = 8
"""A graph in which dividing matmuls and convolutions still finds new needs after these rounds stays as it is."""


class ExitNeeds(NamedTuple):
    """What each exit depends on if some selectors are replaced."""

    exits: tuple[int, ...]
    """For each exit: the matmuls and convolutions that it needs, as a bit set."""
    pulled: set[Need]
    """Needs that are computed from the operands of their pulls; the others are slices of the full values."""
    replaced: set[ir.Value]
    """Outputs of selectors that are computed without the full tensor."""
    expensive: "ExpensiveNodes"
    """The matmuls and convolutions that each value and region needs."""


class NeedGraph:
    """The needs of all selectors of a graph, and of the operands of their pulls.

    Attributes:
        selectors: output of a selector -> its pull.
        pulls: need -> its pull, or None if only the full value can be computed.
        segments: output of a matmul or conv -> the needs that are together the full value; for those in `divided`.
        is_complete: False if there are too many needs to follow.

    Args:
        graph: a normalised graph.
        divided: outputs of matmuls and convolutions whose full value is joined from parts.

    """

    def __init__(self, graph: ir.Graph, divided: Collection[ir.Value] = ()) -> None:
        self._graph = graph
        self._nodes = list(graph)
        self._place = {node: index for index, node in enumerate(self._nodes)}
        input_dims = input_symbolic_dims(graph)
        self._shape_nodes = {node for node in self._nodes if shape_node_dims(node, input_dims) is not None}
        expensive = [node for node in self._nodes if _is_expensive(node)]
        self._own = {node: 1 << index for index, node in enumerate(expensive)}
        self.selectors = dict(_selectors(self._nodes))
        self.pulls: dict[Need, Pull | None] = {}
        self.segments: dict[ir.Value, list[Need]] = {}
        self.is_complete = self._find(divided)
        self._by_value: defaultdict[ir.Value, list[Need]] = defaultdict(list)
        for need in self.pulls:
            self._by_value[need[0]].append(need)
        for needs in self._by_value.values():  # a need that is joined from others comes after them
            needs.sort(key=self._is_joined)

    def in_order(self, items: Iterable[Need | ir.Value]) -> list[Need | ir.Value]:
        """Return needs and outputs of selectors such that each comes after those that it is computed from."""

        def place(item: Need | ir.Value) -> tuple[int, int]:
            value, stage = (item, 0) if isinstance(item, ir.Value) else (item[0], 1 + self._is_joined(item))
            node = value.producer()
            return (-1 if node is None else self._place[node]), stage

        return sorted(items, key=place)

    def evaluate(self, enabled: Collection[ir.Value]) -> ExitNeeds:
        """Return what the exits need if the selectors with outputs in `enabled` are replaced where that helps."""
        state = ExpensiveNodes({need: 0 if is_slice(need[1]) else None for need in self.pulls})
        replaced: set[ir.Value] = set()
        for node in self._nodes:
            own = self._own.get(node, 0)
            inputs = () if node in self._shape_nodes else values_read_by(node)
            total = own | (state.union(Operand(value) for value in inputs) or 0)
            for output in node.outputs:
                state.of_value[output] = total
                self._decide(output, own, state)
                bits = state.union(self.selectors[output].operands) if output in enabled else None
                if bits is not None and state.are_pulled(self.selectors[output].operands):
                    replaced.add(output)
                    state.of_value[output] = bits
        exits = tuple(state.of_value.get(value, 0) for value in self._graph.outputs)
        return ExitNeeds(exits, state.pulled, replaced, state)

    def _decide(self, value: ir.Value, own: int, state: "ExpensiveNodes") -> None:
        """Decide for all needs of a value together whether they are computed from parts of its node's inputs."""
        total = state.of_value[value]
        found: dict[Need, int | None] = {}
        for need in self._by_value.get(value, ()):
            pull = self.pulls[need]
            if pull is not None and self._is_joined(need):
                found[need] = _union(found[part.value, part.region or ()] for part in pull.operands)
            else:
                bits = None if pull is None else state.union(pull.operands)
                found[need] = None if bits is None else bits | own
        helps = any(bits is not None and bits != total for bits in found.values())
        for need, bits in found.items():
            if helps and bits is not None:
                state.pulled.add(need)
                state.of_need[need] = bits
            else:
                state.of_need[need] = total if is_slice(need[1]) else None

    def _is_joined(self, need: Need) -> bool:
        """Return True if a need is joined from other needs of the same value."""
        pull = self.pulls[need]
        return pull is not None and bool(pull.operands) and pull.operands[0].value is need[0]

    def _find(self, divided: Collection[ir.Value]) -> bool:
        """Follow the pulls of the selectors. Return False if there are too many needs."""
        limit = max(_MIN_NEEDS, _MAX_NEEDS_PER_NODE * len(self._nodes))
        pending = [operand for pull in self.selectors.values() for operand in pull.operands]
        for _ in range(_MAX_ROUNDS):
            while pending:
                value, region = pending.pop()
                if region is None or is_full(region) or (value, region) in self.pulls:
                    continue
                pull = None if value.producer() not in self._place else pull_of(value, region)
                self.pulls[value, region] = pull
                if pull is not None:
                    pending.extend(pull.operands)
                if len(self.pulls) > limit:
                    return False
            pending = self._join_overlapping(divided)
            if not pending:
                return True
        return False

    def _join_overlapping(self, divided: Collection[ir.Value]) -> list[Operand]:
        """Divide the output of each matmul or conv at the ends of the needed ranges, so that no row is computed twice.

        Return the needs that are new.
        """
        needs: defaultdict[ir.Value, list[Need]] = defaultdict(list)
        for need in self.pulls:
            if need[0].producer() in self._own:
                needs[need[0]].append(need)
        fresh: list[Operand] = []
        for value, regions in needs.items():
            axis = _common_axis([region for _, region in regions])
            rank = len(regions[0][1])
            if axis is None:
                continue
            ranges = [(part.picked[0], part.picked[-1] + 1) for _, region in regions if (part := region[axis])]
            size = next(part.size for _, region in regions if (part := region[axis]))
            ends = sorted({end for found in ranges for end in found} | ({0, size} if value in divided else set()))
            pieces = [(start, end) for start, end in pairwise(ends) if value in divided or _is_inside(start, ranges)]
            segments = {start: at_axis(rank, axis, part_of(range(start, end), size)) for start, end in pieces}
            if value in divided:
                self.segments[value] = [(value, region) for region in segments.values()]
            fresh += [Operand(value, region) for region in segments.values() if (value, region) not in self.pulls]
            for need, (low, high) in zip(regions, ranges, strict=True):
                inside = [Operand(value, region) for start, region in segments.items() if low <= start < high]
                if len(inside) > 1:
                    self.pulls[need] = Pull(tuple(inside), join_along(axis))
        return fresh


class ExpensiveNodes:
    """The matmuls and convolutions that values and regions need, as bit sets; None if a region cannot be computed."""

    def __init__(self, of_need: dict[Need, int | None]) -> None:
        self.of_value: dict[ir.Value, int] = {}
        self.of_need = of_need
        self.pulled: set[Need] = set()

    def union(self, operands: Iterable[Operand]) -> int | None:
        """Return what all operands together need."""
        return _union(
            self.of_value.get(value, 0) if region is None or is_full(region) else self.of_need[value, region]
            for value, region in operands
        )

    def are_pulled(self, operands: Iterable[Operand]) -> bool:
        """Return True if no operand is a slice of a full value."""
        return all(region is None or is_full(region) or (value, region) in self.pulled for value, region in operands)


def _common_axis(regions: Sequence[Region]) -> int | None:
    """Return the only axis that all regions restrict, to a range without gaps, or None."""
    axes = set()
    for region in regions:
        found = [(axis, part) for axis, part in enumerate(region) if part is not None]
        axes.add(found[0][0])
        if len(found) > 1 or not found[0][1].is_plain or (found[0][1].picked.step != 1 and len(found[0][1].picked) > 1):
            return None
    return axes.pop() if len(axes) == 1 else None


def _is_inside(index: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(low <= index < high for low, high in ranges)


def _is_expensive(node: ir.Node) -> bool:
    """Return True for matmuls and convolutions, also inside, and for operators that ONNX does not define."""
    inside = any(_is_expensive(inner) for subgraph in subgraphs_of(node) for inner in subgraph)
    return inside or node.domain not in {"", "ai.onnx"} or is_matmul_or_conv(node)


def _selectors(nodes: Iterable[ir.Node]) -> Iterator[tuple[ir.Value, Pull]]:
    """Yield each output that is a part of another value, with its pull."""
    for node in nodes:
        for output in node.outputs if node.op_type in SELECTORS else ():
            dims = dims_of(output)
            pull = None if dims is None else pull_of(output, (None,) * len(dims))
            if pull is not None and _restricts(pull):
                yield output, pull


def _restricts(pull: Pull) -> bool:
    return any(region is not None and not is_full(region) for _, region in pull.operands)


def _union(found: Iterable[int | None]) -> int | None:
    total = 0
    for bits in found:
        if bits is None:
            return None
        total |= bits
    return total
