"""Chooses which outputs of a model are its exits, and in which order."""

from collections.abc import Sequence

from onnx_ir.passes import common as passes

from edgeexit.compiler.export.model import ExportedModel
from edgeexit.errors import CompileError


def choose_exits(exported: ExportedModel, names: Sequence[str]) -> ExportedModel:
    """Keep the outputs `names` alone, in that order, and what they need. Raises CompileError."""
    known = ", ".join(f"'{name}'" for name in exported.exits)
    for index, name in enumerate(names):
        if name not in exported.exits:
            raise CompileError(f"there is no exit '{name}'; the model has {known}")
        if name in names[:index]:
            raise CompileError(f"exit '{name}' is named twice; name each once, shallow to deep")
    if len(names) == 1:
        raise CompileError(f"'{names[0]}' alone is no early-exit model; name at least 2 of {known}")
    graph = exported.model.graph
    values = {str(value.name): value for value in graph.outputs}
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    passes.RemoveUnusedNodesPass()(exported.model)
    return exported._replace(exits=tuple(names))
