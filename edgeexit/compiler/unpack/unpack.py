"""Takes packed exits apart: computes each part of a packed tensor from the parts of its operands.

A model that stacks its exits in one tensor and then takes them apart (stack and unbind, one head on all features at
once, writes into a preallocated tensor) computes all exits together: the first exit needs the full network. This pass
moves the Slice, Gather or Split in front of the operators that computed the tensor, down to the Concat where the
features of the exits meet. The graph changes only if an exit then needs fewer matmuls and convolutions.
"""

from collections import defaultdict
from collections.abc import Iterable

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.extract import nodes_needed_for
from edgeexit.compiler.graph import infer_shapes
from edgeexit.compiler.unpack.constants import axes_of
from edgeexit.compiler.unpack.dimensions import named_dimensions
from edgeexit.compiler.unpack.needs import ExitNeeds, Need, NeedGraph
from edgeexit.compiler.unpack.pull import BuildTarget, Operand, join_along
from edgeexit.compiler.unpack.regions import dims_of, is_full
from edgeexit.compiler.unpack.rewriter import Rewriter
from edgeexit.compiler.unpack.rules import SELECTORS


def unpack_exits(model: ir.Model) -> bool:
    """Take packed exits of a normalised model apart, in place. Return True if the graph changed.

    The values of the exits stay the same, except for rounding.
    """
    graph = model.graph
    if not any(node.op_type in SELECTORS for node in graph):
        return False
    with named_dimensions(graph):
        changed = _unpack(graph)
    if changed:
        for step in (passes.TopologicalSortPass(), passes.RemoveUnusedNodesPass()):
            step(model)
        _cancel_squeezes(graph)
        passes.RemoveUnusedNodesPass()(model)
        _remove_copies(graph)
        infer_shapes(model)
    return changed


def _unpack(graph: ir.Graph) -> bool:
    """Replace the selectors that make an exit need less, if there are any. Return True if the graph changed."""
    needs = NeedGraph(graph)
    if not needs.selectors or not needs.is_complete:
        return False
    before = needs.evaluate(())
    everything = needs.evaluate(needs.selectors)
    if everything.exits == before.exits:
        return False
    enabled = _required(needs, everything)
    divided = {value for value, _ in needs.evaluate(enabled).pulled}
    needs = NeedGraph(graph, divided)
    found = needs.evaluate(enabled)
    if not needs.is_complete or found.exits != everything.exits:
        return False
    _Unpacking(graph, needs, found).run()
    return True


def _required(needs: NeedGraph, everything: ExitNeeds) -> set[ir.Value]:
    """Return the selectors without which an exit would need more; all selectors of one tensor count together."""
    groups: defaultdict[ir.Value, set[ir.Value]] = defaultdict(set)
    for output in needs.selectors:
        if output in everything.replaced:
            groups[needs.selectors[output].operands[0].value].add(output)
    enabled = set().union(*groups.values())
    pending = [list(groups.values())]
    while pending:  # in halves, because most groups are usually not required
        some = pending.pop()
        without = enabled.difference(*some)
        if needs.evaluate(without).exits == everything.exits:
            enabled = without
        elif len(some) > 1:
            pending += [some[: len(some) // 2], some[len(some) // 2 :]]
    return enabled


def _cancel_squeezes(graph: ir.Graph) -> None:
    """Read the input of an Unsqueeze instead of the result of a Squeeze of the same axes after it."""
    for node in graph:
        before = node.inputs[0].producer() if node.op_type == "Squeeze" and node.inputs[0] is not None else None
        if before is None or before.op_type != "Unsqueeze" or before.inputs[0] is None:
            continue
        output, source = node.outputs[0], before.inputs[0]
        rank = len(dims_of(source) or ())
        axes = [axes_of(one, rank + len(one.inputs[1:])) for one in (node, before)]
        if axes[0] is None or axes[0] != axes[1] or len(axes[0]) != 1:
            continue
        if output.is_graph_output():
            node.op_type = "Identity"
            node.resize_inputs(1)
            node.replace_input_with(0, source)
        else:
            output.replace_all_uses_with(source)


def _remove_copies(graph: ir.Graph) -> None:
    """Remove the Identity behind a value that becomes an exit, if nothing else reads the value."""
    for output in list(graph.outputs):
        node = output.producer()
        source = node.inputs[0] if node is not None and node.op_type == "Identity" else None
        if node is None or source is None or len(source.uses()) > 1 or source.is_graph_output():
            continue
        before = source.producer()
        if before is None or before.graph is not graph:
            continue
        name = output.name
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        source.name = name


class _Unpacking:
    """Builds the parts and replaces the selectors by them."""

    def __init__(self, graph: ir.Graph, needs: NeedGraph, found: ExitNeeds) -> None:
        self._graph = graph
        self._needs = needs
        self._found = found
        self._rewriter = Rewriter(graph)
        self._built: dict[Need, ir.Value] = {}
        self._instead: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        """Replace the selectors, and join the divided values that are still needed."""
        outputs = [output for output in self._needs.selectors if output in self._found.replaced]
        self._build(outputs, (operand for output in outputs for operand in self._needs.selectors[output].operands))
        for output in outputs:
            self._replace(output, self._instead[output])
        for value, segments in reversed(self._needs.segments.items()):
            still_needed = value.producer() in nodes_needed_for(self._graph, self._graph.outputs)
            if still_needed and self._built.keys() & segments and self._found.pulled.issuperset(segments):
                self._join(value, segments)

    def _join(self, value: ir.Value, segments: list[Need]) -> None:
        """Replace a value by its parts, which other exits compute anyway."""
        self._build((), [Operand(*need) for need in segments])
        (axis,) = {axis for _, region in segments for axis, part in enumerate(region) if part is not None}
        target = BuildTarget(value, (None,) * len(segments[0][1]))
        joined = join_along(axis)(self._rewriter, target, [self._built[need] for need in segments])
        self._replace(value, joined)

    def _build(self, outputs: Iterable[ir.Value], operands: Iterable[Operand]) -> None:
        """Build the needs of operands, and then the outputs of selectors that are computed from them."""
        wanted: dict[Need, None] = {}  # in a fixed order, so that names are the same in every process
        pending = list(operands)
        while pending:
            value, region = pending.pop()
            if region is None or is_full(region) or (value, region) in self._built or (value, region) in wanted:
                continue
            wanted[value, region] = None
            pull = self._needs.pulls[value, region]
            if pull is not None and (value, region) in self._found.pulled:
                pending.extend(pull.operands)
        for item in self._needs.in_order([*outputs, *wanted]):
            if isinstance(item, ir.Value):
                pull = self._needs.selectors[item]
                full = (None,) * len(dims_of(item) or ())
                self._instead[item] = pull.build(self._rewriter, BuildTarget(item, full), self._values(pull.operands))
            else:
                self._built[item] = self._part(item)

    def _part(self, need: Need) -> ir.Value:
        """Build a need: by its pull, or as a slice of the full value."""
        pull = self._needs.pulls[need]
        if pull is None or need not in self._found.pulled:
            return self._rewriter.cut(self._instead.get(need[0], need[0]), need[1])
        return pull.build(self._rewriter, BuildTarget(*need), self._values(pull.operands))

    def _values(self, operands: Iterable[Operand]) -> list[ir.Value]:
        return [
            self._instead.get(value, value) if region is None or is_full(region) else self._built[value, region]
            for value, region in operands
        ]

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        """Replace a value everywhere; an exit becomes a copy of the new value, with the same name."""
        if old.is_graph_output():
            name = str(old.name)
            old.name = self._rewriter.name(name)
            new = self._rewriter.emit("Identity", [new], like=old, shape=old.shape)
            new.name = name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
