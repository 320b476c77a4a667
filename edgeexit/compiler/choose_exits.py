"""Selects which outputs of a graph are its exits, and their order."""

from collections.abc import Sequence

import onnx_ir as ir

from edgeexit.compiler.output_names import listed, match_names
from edgeexit.errors import CompileError

_MIN_EXITS = 2


def choose_exits(model: ir.Model, exits: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Remove all outputs except those that `patterns` select; return the names of the remaining ones, in that order.

    The model is not normalised yet, so that only what is an exit must be valid; normalising removes the unused nodes.

    Args:
        model: the model; it is changed in place.
        exits: names of its outputs, in order.
        patterns: names, or patterns with wildcards, shallow to deep.

    Raises CompileError for an unknown name, a name that is given twice, and fewer than two exits.

    """
    names = match_names(patterns, exits)
    if len(names) < _MIN_EXITS:
        known = listed([f"'{name}'" for name in exits])
        raise CompileError(f"exit '{names[0]}' is the only one given; give at least 2 of {known}")
    graph = model.graph
    values = dict(zip(exits, graph.outputs, strict=True))
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    return names
