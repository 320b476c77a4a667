"""Names the operator that computes several exits together, such that their tensor cannot be taken apart."""

import onnx_ir as ir

from edgeexit.compiler.extract import values_read_by
from edgeexit.compiler.graph import label_of
from edgeexit.compiler.macs import is_matmul_or_conv
from edgeexit.compiler.unpack.needs import ExitNeeds, NeedGraph
from edgeexit.compiler.unpack.pull import Operand
from edgeexit.compiler.unpack.regions import is_full


def find_blocker(graph: ir.Graph, exit_name: str) -> str | None:
    """Return a label of the operator that needs the features of all exits for a part of its result.

    Return None if the exit is no part of a tensor, or if no operator mixes the exits.
    """
    needs = NeedGraph(graph)
    found = needs.evaluate(())
    for output in _selected(graph, exit_name, needs):
        node = _mixing_node(needs, found, needs.selectors[output].operands[0])
        if node is not None:
            return label_of(node)
    return None


def _selected(graph: ir.Graph, exit_name: str, needs: NeedGraph) -> list[ir.Value]:
    """Return the outputs of selectors from which an exit is computed without matmul or conv."""
    found: list[ir.Value] = []
    pending = [value for value in graph.outputs if value.name == exit_name]
    seen = set(pending)
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in needs.selectors:
            found.append(value)
        elif node is not None and not is_matmul_or_conv(node):
            fresh = [read for read in values_read_by(node) if read not in seen]
            seen.update(fresh)
            pending += fresh
    return found


def _mixing_node(needs: NeedGraph, found: ExitNeeds, operand: Operand) -> ir.Node | None:
    """Follow a region to the first node that needs a full operand with the features of all exits."""
    current: Operand | None = operand
    node: ir.Node | None = None
    while current is not None:
        value, region = current
        node = value.producer()
        pull = None if region is None else needs.pulls.get((value, region))
        parts = () if pull is None else [part for part in pull.operands if part.region and not is_full(part.region)]
        current = next((part for part in parts if _needs_all(part, found)), None)
    return node


def _needs_all(part: Operand, found: ExitNeeds) -> bool:
    """Return True if a region needs as much as the full value."""
    bits = found.expensive.union([part])
    return bool(bits) and bits == found.expensive.of_value.get(part.value)
