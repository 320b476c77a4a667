"""Selects which outputs of a graph are its exits and their companions, and their order."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeexit.compiler.exits.companions import Companions, assign_companions, choose_companions
from edgeexit.compiler.exits.names import match_exits


def choose_exits(
    model: ir.Model, outputs: Sequence[str], patterns: Sequence[str], companions: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], Companions]:
    """Make the exits and then their companions the outputs of a graph, and return both. An output may occur twice.

    The model is not normalised yet, so that only what is an exit must be valid; normalising removes the unused nodes.

    Args:
        model: the model; it is changed in place.
        outputs: names of its outputs, in order.
        patterns: names of the exits, or patterns with wildcards, shallow to deep; empty: all that are no companions.
        companions: companion name -> names or patterns of its outputs, in the order of the exits.

    Raises CompileError for an unknown name, a name that is given twice, fewer than two exits, and companions that do
    not fit the exits.

    """
    matched, others = choose_companions(companions, outputs, exits=patterns)
    exits = match_exits(patterns, others) if patterns else others
    assigned = assign_companions(matched, exits)
    graph = model.graph
    values = dict(zip(outputs, graph.outputs, strict=True))
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in (*exits, *(companion.output for companion in assigned)))
    return exits, assigned
