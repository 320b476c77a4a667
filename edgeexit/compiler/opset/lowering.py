"""Rewrites a graph for an older operator set, because older runtimes read nothing newer.

ONNX's own converter does not go down to 13 (it knows no way back for Add or Mul), nor through a LayerNormalization, and
it loses functions. What changed between two versions of an operator is in ONNX's schemas, so most of it is read there.
"""

from typing import Any, Final

import onnx
import onnx.inliner
import onnx.shape_inference
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeexit.compiler.graph import free_name, infer_shapes, names_in, opset_of, set_ir_version
from edgeexit.compiler.opset.rules import RULES, Refusal
from edgeexit.compiler.reasons import quietly, reason_of
from edgeexit.errors import CompileError

WORKING_OPSET: Final = 18
"""The oldest that a newer graph is brought to before it is split; the stages go further down, if they have to."""

OpSchema = Any  # onnx's is compiled, and its stub lacks half of it

_OURS: Final = 15  # of the nodes that the compiler itself adds, in a graph of whatever opset


def lower_opset(model: ir.Model, opset: int) -> None:
    """Rewrite a normalised model in place for operator set `opset`; one that is old enough stays as it is.

    Functions are inlined. Raises CompileError for an operator that cannot be said in `opset`.
    """
    found = max(opset_of(model), _OURS)
    if found <= opset:
        return
    if model.functions:
        try:
            passes.InlinePass()(model)
        except ValueError as error:  # a function of another opset, or one that calls itself
            raise CompileError(f"the model's functions do not go into opset {opset}: {reason_of(error)}") from error
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
    """Rewrite one node, and what replaces it, from `version` to `opset`; `taken` are the names in the graph."""
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
            made = _step_down(node, schema)
        except Refusal as refusal:
            raise CompileError(
                f"operator '{node.op_type}' ({_where(node)}) does not go into opset {opset}, the target's: {refusal}"
            ) from refusal
        if made is None:
            pending.append((node, since - 1))
        else:
            _replace(node, made, taken)
            pending.extend((new, since) for new in made if new.domain == "")


def _step_down(node: ir.Node, schema: OpSchema) -> list[ir.Node] | None:
    """Change a node so that the operator before `schema` does the same, or return what to put in its place."""
    rule = RULES.get((node.op_type, schema.since_version))
    made = None if rule is None else rule(node)
    if made is not None:
        return made
    older = _before(schema)
    if older is None:
        if schema.has_function or schema.has_context_dependent_function:
            return _expand(node, schema)
        raise Refusal(f"it came with opset {schema.since_version}")
    _drop_defaults(node, schema, older)
    while node.inputs and node.inputs[-1] is None:
        node.resize_inputs(len(node.inputs) - 1)
    if len(node.inputs) > older.max_input:
        raise Refusal(f"before opset {schema.since_version} it takes no input {len(node.inputs)}")
    _check_types(node, schema, older)
    return None


def _before(schema: OpSchema) -> OpSchema | None:
    """Return the operator as it was before `schema`, or None where there was none that may be used."""
    try:
        older = onnx.defs.get_schema(schema.name, schema.since_version - 1, "")
    except onnx.defs.SchemaError:
        return None
    return None if older.deprecated else older


def _drop_defaults(node: ir.Node, schema: OpSchema, older: OpSchema) -> None:
    """Remove the attributes that the older operator has not, which did nothing when they are at their default."""
    for name, attribute in list(node.attributes.items()):
        if name not in older.attributes and name in schema.attributes:
            default = schema.attributes[name].default_value
            if not default.name or attribute.value != ir.serde.deserialize_attribute(default).value:
                raise Refusal(f"'{name}' = {attribute.value} came with opset {schema.since_version}")
            del node.attributes[name]


def _check_types(node: ir.Node, schema: OpSchema, older: OpSchema) -> None:
    for values, formal in ((node.inputs, older.inputs), (node.outputs, older.outputs)):
        for index, value in enumerate(values):
            parameter = formal[min(index, len(formal) - 1)]
            if value is not None and isinstance(value.type, ir.TensorType):
                dtype = f"tensor({value.type.dtype.name.lower()})"
                if dtype not in parameter.types:
                    raise Refusal(f"before opset {schema.since_version} it takes no {dtype}, which '{value.name}' is")


def _expand(node: ir.Node, schema: OpSchema) -> list[ir.Node]:
    """Return the nodes of the function by which ONNX defines an operator."""
    for name, attribute in schema.attributes.items():  # the inliner leaves omitted ones out of the body
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)
    inputs = [value for value in node.inputs if value is not None]
    try:
        alone = onnx.helper.make_model(
            onnx.helper.make_graph(
                [ir.to_proto(node)], "alone", [_typed(value) for value in dict.fromkeys(inputs)], _outputs(node)
            ),
            opset_imports=[onnx.helper.make_opsetid("", schema.since_version)],
        )
        with quietly():
            inlined = onnx.inliner.inline_selected_functions(alone, [("", node.op_type)], inline_schema_functions=True)
            inlined = onnx.shape_inference.infer_shapes(inlined)  # for what follows goes by types
        body = ir.from_proto(inlined).graph
    except Exception as error:  # the inliner's assertions are RuntimeErrors, protobuf has its own
        raise Refusal(f"it came with opset {schema.since_version}; {reason_of(error)}") from error
    if any(inner.op_type == node.op_type for inner in body):
        raise Refusal(f"it came with opset {schema.since_version}")
    outer = {value.name: value for value in inputs}
    for value in body.inputs:
        value.replace_all_uses_with(outer[value.name])
    made = list(body)
    results = list(body.outputs)
    body.outputs.clear()
    body.remove(made)
    for inner in made:
        inner.name = f"{node.name or node.outputs[0].name}.{inner.op_type}"
        for output in inner.outputs:
            if output not in results:
                output.name = f"{node.outputs[0].name}.{output.name}"
    return made


def _typed(value: ir.Value) -> onnx.ValueInfoProto:
    proto: onnx.ValueInfoProto = ir.to_proto(ir.Value(name=value.name, type=value.type, shape=value.shape))
    return proto


def _outputs(node: ir.Node) -> list[onnx.ValueInfoProto]:
    return [_typed(value) for value in node.outputs if value.name]


def _replace(node: ir.Node, made: list[ir.Node], taken: set[str]) -> None:
    """Put nodes where one was; what they make is found by the name of what it made."""
    graph: Any = node.graph
    named = {output.name: output for new in made for output in new.outputs}
    wanted = [value for value in node.outputs if value.name in named]
    taken.discard(node.name or "")
    kept = {value.name for value in wanted}
    for new in made:
        if new.name:
            new.name = free_name(new.name, taken)
        for output in new.outputs:
            if output.name and output.name not in kept:
                output.name = free_name(output.name, taken)
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, wanted, [named[value.name] for value in wanted])


def _where(node: ir.Node) -> str:
    return f"node '{node.name}'" if node.name else f"makes '{node.outputs[0].name}'"
