"""Rewrites a graph for an older operator set, because older runtimes support no newer one.

The version converter of ONNX cannot convert down to 13 (not even Add or Mul), does not support LayerNormalization, and
loses functions. Most differences between two versions of an operator are read from the ONNX schemas.
"""

from typing import Any, Final

import onnx
import onnx.inliner
import onnx.shape_inference
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.error_text import reason_of
from edgeexit.compiler.graph import infer_shapes, names_in, opset_of, set_ir_version, unique_name
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.opset.rules import RULES, LoweringError
from edgeexit.errors import CompileError

WORKING_OPSET: Final = 18
"""The full model is not lowered below this opset; if the target needs an older one, the stages are lowered."""

OpSchema = Any  # the type stub of onnx lacks many attributes

_COMPILER_OPSET: Final = 15  # the compiler adds nodes of this opset to all graphs, even older ones


def lower_opset(model: ir.Model, opset: int) -> None:
    """Rewrite a normalised model in place for the older operator set `opset`, and inline its functions.

    A model is not changed if neither its own nodes nor those that the compiler adds (opset 15) need a newer operator
    set. Raises CompileError for an operator that cannot be expressed in `opset`, or that ONNX does not define.
    """
    found = max(opset_of(model), _COMPILER_OPSET)
    if found <= opset:
        return
    if model.functions:
        try:
            passes.InlinePass()(model)
        except ValueError as error:  # a function with another opset, or a recursive one
            raise CompileError(
                f"the model's functions cannot be inlined for opset {opset}: {reason_of(error)}"
            ) from error
    taken = names_in(model.graph)
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.domain == "":
                _lower(node, found, opset, taken)
    model.opset_imports[""] = opset
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    passes.NameFixPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    set_ir_version(model)
    infer_shapes(model)


def _lower(node: ir.Node, version: int, opset: int, taken: set[str]) -> None:
    """Rewrite one node, and then the nodes that replace it, from opset `version` to `opset`.

    `taken` are the names in the graph.
    """
    pending = [(node, version)]
    while pending:
        node, version = pending.pop()
        try:
            schema = onnx.defs.get_schema(node.op_type, version, "")
        except onnx.defs.SchemaError as error:
            raise CompileError(f"operator '{node.op_type}' ({_where(node)}) is not in ONNX opset {version}") from error
        since = schema.since_version
        if since <= opset:
            continue
        try:
            replacement = _lower_one_version(node, schema)
        except LoweringError as error:
            raise CompileError(
                f"operator '{node.op_type}' ({_where(node)}) cannot be expressed in opset {opset} of the target: "
                f"{error}"
            ) from error
        if replacement is None:
            pending.append((node, since - 1))
        else:
            _replace(node, replacement, taken)
            pending.extend((new, since) for new in replacement if new.domain == "")


def _lower_one_version(node: ir.Node, schema: OpSchema) -> list[ir.Node] | None:
    """Change a node to the version of its operator before `schema`, or return the nodes that replace it.

    Raises LoweringError if neither is possible.
    """
    rule = RULES.get((node.op_type, schema.since_version))
    replacement = None if rule is None else rule(node)
    if replacement is not None:
        return replacement
    older = _previous_version(schema)
    if older is None:
        if schema.has_function or schema.has_context_dependent_function:
            return _expand(node, schema)
        raise LoweringError(f"it was added in opset {schema.since_version}")
    _drop_defaults(node, schema, older)
    while node.inputs and node.inputs[-1] is None:
        node.resize_inputs(len(node.inputs) - 1)
    if len(node.inputs) > older.max_input:
        raise LoweringError(f"before opset {schema.since_version} it has no input {len(node.inputs)}")
    _check_types(node, schema, older)
    return None


def _previous_version(schema: OpSchema) -> OpSchema | None:
    """Return the schema of the previous version, or None if there is none or it is deprecated."""
    try:
        older = onnx.defs.get_schema(schema.name, schema.since_version - 1, "")
    except onnx.defs.SchemaError:
        return None
    return None if older.deprecated else older


def _drop_defaults(node: ir.Node, schema: OpSchema, older: OpSchema) -> None:
    """Remove the attributes that the older version lacks. Raises LoweringError if one is not at its default."""
    for name, attribute in list(node.attributes.items()):
        if name not in older.attributes and name in schema.attributes:
            default = schema.attributes[name].default_value
            if not default.name or attribute.value != ir.serde.deserialize_attribute(default).value:
                raise LoweringError(f"'{name}' = {attribute.value} was added in opset {schema.since_version}")
            del node.attributes[name]


def _check_types(node: ir.Node, schema: OpSchema, older: OpSchema) -> None:
    for values, formal in ((node.inputs, older.inputs), (node.outputs, older.outputs)):
        for index, value in enumerate(values):
            parameter = formal[min(index, len(formal) - 1)]
            if value is not None and isinstance(value.type, ir.TensorType):
                dtype = f"tensor({value.type.dtype.name.lower()})"
                if dtype not in parameter.types:
                    raise LoweringError(
                        f"before opset {schema.since_version} it does not support {dtype} for '{value.name}'"
                    )


def _expand(node: ir.Node, schema: OpSchema) -> list[ir.Node]:
    """Return nodes that replace a node: the body of the ONNX function that defines its operator."""
    for name, attribute in schema.attributes.items():  # the inliner does not insert defaults
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)
    inputs = [value for value in node.inputs if value is not None]
    try:
        model = onnx.helper.make_model(
            onnx.helper.make_graph(
                [ir.to_proto(node)], "operator", [_typed(value) for value in dict.fromkeys(inputs)], _outputs(node)
            ),
            opset_imports=[onnx.helper.make_opsetid("", schema.since_version)],
        )
        with silence_libraries():
            inlined = onnx.inliner.inline_selected_functions(model, [("", node.op_type)], inline_schema_functions=True)
            inlined = onnx.shape_inference.infer_shapes(inlined)  # the next steps need types
        body = ir.from_proto(inlined).graph
    except Exception as error:  # the inliner raises RuntimeError, protobuf its own classes
        raise LoweringError(f"it was added in opset {schema.since_version}; {reason_of(error)}") from error
    if any(inner.op_type == node.op_type for inner in body):
        raise LoweringError(f"it was added in opset {schema.since_version}")
    outer = {value.name: value for value in inputs}
    for value in body.inputs:
        value.replace_all_uses_with(outer[value.name])
    replacement = list(body)
    results = list(body.outputs)
    body.outputs.clear()
    body.remove(replacement)
    for inner in replacement:
        inner.name = f"{node.name or node.outputs[0].name}.{inner.op_type}"
        for output in inner.outputs:
            if output not in results:
                output.name = f"{node.outputs[0].name}.{output.name}"
    return replacement


def _typed(value: ir.Value) -> onnx.ValueInfoProto:
    proto: onnx.ValueInfoProto = ir.to_proto(ir.Value(name=value.name, type=value.type, shape=value.shape))
    return proto


def _outputs(node: ir.Node) -> list[onnx.ValueInfoProto]:
    return [_typed(value) for value in node.outputs if value.name]


def _replace(node: ir.Node, replacement: list[ir.Node], taken: set[str]) -> None:
    """Replace a node by others, which produce its outputs under the same names."""
    graph: Any = node.graph
    named = {output.name: output for new in replacement for output in new.outputs}
    wanted = [value for value in node.outputs if value.name in named]
    taken.discard(node.name or "")
    kept = {value.name for value in wanted}
    for new in replacement:
        if new.name:
            new.name = unique_name(new.name, taken)
        for output in new.outputs:
            if output.name and output.name not in kept:
                output.name = unique_name(output.name, taken)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], replacement, wanted, [named[value.name] for value in wanted]
    )


def _where(node: ir.Node) -> str:
    return f"node '{node.name}'" if node.name else f"which produces '{node.outputs[0].name}'"
