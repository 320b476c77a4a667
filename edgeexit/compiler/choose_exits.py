"""Selects which outputs of a model are its exits, and their order."""

from collections.abc import Sequence

from onnx_ir.passes import common as passes

from edgeexit.compiler.export.model import ExportedModel
from edgeexit.errors import CompileError

_MIN_EXITS = 2


def choose_exits(exported: ExportedModel, names: Sequence[str]) -> ExportedModel:
    """Remove all outputs except `names` from the model, and return it with these as exits, in that order.

    Nodes that no exit needs are removed, too. Raises CompileError for a name that is unknown or given twice, and for
    fewer than two names.
    """
    known = ", ".join(f"'{name}'" for name in exported.exits)
    for index, name in enumerate(names):
        if name not in exported.exits:
            raise CompileError(f"there is no exit '{name}'; the model has {known}")
        if name in names[:index]:
            raise CompileError(f"exit '{name}' is given twice; give each name once, shallow to deep")
    if len(names) < _MIN_EXITS:
        raise CompileError(f"exit '{names[0]}' is the only one given; give at least 2 of {known}")
    graph = exported.model.graph
    values = {str(value.name): value for value in graph.outputs}
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    passes.RemoveUnusedNodesPass()(exported.model)
    return exported._replace(exits=tuple(names))
