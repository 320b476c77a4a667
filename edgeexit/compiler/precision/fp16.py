"""Converts the floats inside a model to float16, with a Cast wherever float16 and float32 meet."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.graph import add_initializer, names_in, subgraphs_of, unique_name
from edgeexit.compiler.precision.fp32_nodes import (
    TYPE_AGNOSTIC_OPERATORS,
    fp16_inputs,
    is_float32,
    schema_of,
    select_fp32_nodes,
    typed_outputs,
)
from edgeexit.compiler.precision.masks import (
    FP16_MAX,
    MASK_LIMIT,
    NEAR_FP16_MAX,
    MaskNumbers,
    constants_of,
    has_infinity,
    large_number,
)
from edgeexit.progress import NO_PROGRESS, Progress

_FLOAT32, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
_CERTAINLY_INFINITY = 1e30
"""A number of at least this size can only stand for infinity, wherever it is used."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SUFFIXES = {_FLOAT32: "float", _FLOAT16: "half"}


def to_fp16(model: ir.Model, *, kept: AbstractSet[ir.Node] = frozenset(), progress: Progress = NO_PROGRESS) -> None:
    """Convert a model without functions to float16 in place; inputs and outputs of all graphs stay float32.

    The nodes in `kept` stay in float32, and so do those that `select_fp32_nodes` chooses.

    A number beyond float16's range is clipped instead of becoming infinite. In an attention mask it stands for
    infinity, and becomes the number that `MaskNumbers` gives. Elsewhere it becomes the largest float16, with a warning
    unless it is at least 1e30. Infinity itself stays infinity. A constant of one element that would become zero, like
    an epsilon, becomes the smallest float16 of its sign.

    Types follow the ONNX operator schemas. The converters of ONNX Runtime and onnxconverter-common use lists of
    operators, put the casts of a subgraph into the main graph, and clip weights to the range without a warning.
    """
    converter = _Fp16Converter(model, select_fp32_nodes(model, kept=kept, progress=progress))
    converter.convert(model.graph)
    converter.finish()
    if converter.clipped:
        names = ", ".join(f"'{name}'" for name in converter.clipped)
        progress.warning(
            f"values beyond float16's range are clipped to {FP16_MAX:.0f}: {names}; if the logits change, keep the "
            "nodes that read them in fp32 with --keep-fp32"
        )


class _Fp16Converter:
    """Converts the nodes of a model one by one; `fp32_nodes` stay in float32."""

    def __init__(self, model: ir.Model, fp32_nodes: AbstractSet[ir.Node]) -> None:
        self.clipped: list[str] = []
        self._model = model
        self._fp32_nodes = fp32_nodes
        self._converted: set[ir.Value] = set()
        """Values that were float32 and are float16 now."""
        self._masks = MaskNumbers(model)
        self._beyond_range: dict[ir.Value, float] = dict.fromkeys(self._masks.inputs, _CERTAINLY_INFINITY)
        """float32 value that may contain a number beyond float16's range -> that number; NaN for several."""
        self._infinite: set[ir.Value] = set(self._masks.inputs)
        """float32 values that may contain infinity."""
        self._casts: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}
        self._numbers: dict[float, ir.Value] = {}
        self._weights: dict[ir.Value, ir.Value] = {}
        self._taken = names_in(model.graph)

    def convert(self, graph: ir.Graph) -> None:
        """Convert the nodes of a graph and its subgraphs; graph inputs and outputs keep their types."""
        for node in list(graph):
            subgraphs = list(subgraphs_of(node))
            if subgraphs or node in self._fp32_nodes:
                self._keep_fp32(graph, node)
            else:
                self._to_fp16(graph, node)
            for subgraph in subgraphs:
                self.convert(subgraph)
        for position, value in enumerate(graph.outputs):
            if value in self._converted:
                graph.outputs[position] = self._output_in_fp32(graph, value)

    def finish(self) -> None:
        """Remove casts that have no effect, and give the converted weights their original names."""
        for graph in self._model.graphs():
            for node in list(graph):
                if node.op_type == "Cast" and not node.outputs[0].is_graph_output():
                    (source,) = node.inputs
                    if source is not None and source.dtype == node.outputs[0].dtype:
                        node.outputs[0].replace_all_uses_with(source)
                        graph.remove(node, safe=True)
        initializers = self._model.graph.initializers
        for weight, half in self._weights.items():
            if not weight.uses() and not weight.is_graph_output():
                name = str(weight.name)
                del initializers[name]
                half.name = name

    def _keep_fp32(self, graph: ir.Graph, node: ir.Node) -> None:
        for position, value in enumerate(node.inputs):
            if value is not None and value in self._converted:
                node.replace_input_with(position, self._cast(graph, value, _FLOAT32, before=node))
        self._trace_beyond_range(node, node.outputs)

    def _to_fp16(self, graph: ir.Graph, node: ir.Node) -> None:
        schema = schema_of(node, self._model)
        if schema is None:
            raise ValueError(f"operator '{node.op_type}' has no ONNX schema, so it cannot be converted")
        convertible = {position: variable for position, _, variable in fp16_inputs(node, schema)}
        for position, value in enumerate(node.inputs):
            if value is None or node.op_type in TYPE_AGNOSTIC_OPERATORS:
                continue
            if position in convertible and is_float32(value):
                node.replace_input_with(position, self._in_fp16(graph, value, before=node))
            elif position not in convertible and value in self._converted:
                node.replace_input_with(position, self._cast(graph, value, _FLOAT32, before=node))
        fp32_outputs = []
        for value, variable in typed_outputs(node, schema):
            if not is_float32(value):
                continue
            if node.op_type == "Cast" or variable in convertible.values():
                value.type = ir.TensorType(_FLOAT16)
                self._converted.add(value)
            else:
                fp32_outputs.append(value)
        if node.op_type == "Cast" and node.outputs[0] in self._converted:
            node.attributes["to"] = ir.AttrInt64("to", int(_FLOAT16))
        self._trace_beyond_range(node, fp32_outputs)

    def _trace_beyond_range(self, node: ir.Node, outputs: Sequence[ir.Value]) -> None:
        """Record which of the float32 `outputs` may contain the numbers beyond float16's range that a node reads."""
        tensors = list(constants_of(node))
        found = [self._beyond_range[value] for value in node.inputs if value in self._beyond_range]
        found += [number for number in map(large_number, tensors) if number is not None]
        if found:
            self._beyond_range |= dict.fromkeys(outputs, min(found))
        if any(value in self._infinite for value in node.inputs) or any(map(has_infinity, tensors)):
            self._infinite |= set(outputs)

    def _in_fp16(self, graph: ir.Graph, value: ir.Value, *, before: ir.Node) -> ir.Value:
        """Return a float32 value as float16, for the node `before` of `graph`."""
        if value.is_initializer():
            return self._fp16_weight(value)
        producer = value.producer()
        if producer is not None and producer.op_type == "Cast" and producer.inputs[0] in self._converted:
            return producer.inputs[0]
        return self._cast(graph, value, _FLOAT16, before=before)

    def _fp16_weight(self, weight: ir.Value) -> ir.Value:
        if weight not in self._weights:
            tensor = weight.const_value
            if tensor is None:
                raise ValueError(f"initializer '{weight.name}' has no value")
            array = tensor.numpy()
            limit = self._masks.limit(weight)
            # The sum of a score and a mask number near float16's limit overflows, too.
            number = large_number(tensor, above=NEAR_FP16_MAX if limit == MASK_LIMIT else FP16_MAX)
            if number is not None:
                self._record_clipped(weight, number)
                array = np.where(np.isfinite(array), array.clip(-limit, limit), array)
            converted = array.astype(np.float16)
            if converted.size == 1 and not converted.any():
                converted = converted + (np.sign(array) * np.finfo(np.float16).smallest_subnormal).astype(np.float16)
            name = unique_name(f"{weight.name}.half", self._taken)
            self._weights[weight] = add_initializer(self._model.graph, ir.Tensor(converted, name=name))
        return self._weights[weight]

    def _cast(self, graph: ir.Graph, value: ir.Value, to: ir.DataType, *, before: ir.Node) -> ir.Value:
        """Return a value cast to the type `to`; a graph has one Cast for all its nodes that read the value."""
        if (graph, value) not in self._casts:
            source = value
            if to == _FLOAT16 and value in self._beyond_range:
                source = self._clip(graph, value, before)
            name = unique_name(f"{value.name}.{_SUFFIXES[to]}", self._taken)
            result = ir.Value(name=name, type=ir.TensorType(to), shape=value.shape)
            graph.insert_before(
                before, ir.node("Cast", [source], {"to": int(to)}, outputs=[result], name=f"{name}.cast")
            )
            self._casts[graph, value] = result
        return self._casts[graph, value]

    def _clip(self, graph: ir.Graph, value: ir.Value, before: ir.Node) -> ir.Value:
        """Return a float32 value with its finite numbers clipped; infinity is a float16 number and stays."""
        limit = self._masks.limit(value)
        clipped = self._insert(graph, "Clip", [value, self._number(-limit), self._number(limit)], "clipped", before)
        self._record_clipped(value, self._beyond_range[value])
        if value not in self._infinite:
            return clipped
        size = self._insert(graph, "Abs", [value], "size", before)
        finite = self._insert(
            graph, "LessOrEqual", [size, self._number(_FLOAT32_MAX)], "finite", before, dtype=ir.DataType.BOOL
        )
        return self._insert(graph, "Where", [finite, clipped, value], "limited", before)

    def _insert(
        self,
        graph: ir.Graph,
        operator: str,
        inputs: Sequence[ir.Value],
        suffix: str,
        before: ir.Node,
        *,
        dtype: ir.DataType = _FLOAT32,
    ) -> ir.Value:
        """Insert an elementwise node before another one, and return its output."""
        shape = next(value.shape for value in inputs if not value.is_initializer())
        name = unique_name(f"{inputs[-1 if operator == 'Where' else 0].name}.{suffix}", self._taken)
        result = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)
        graph.insert_before(before, ir.node(operator, inputs, outputs=[result], name=f"{name}.{operator.lower()}"))
        return result

    def _record_clipped(self, value: ir.Value, number: float) -> None:
        if not number >= _CERTAINLY_INFINITY and not self._masks.is_mask(value):  # smaller, or NaN
            self.clipped.append(str(value.name))

    def _number(self, number: float) -> ir.Value:
        """Return a constant, which nodes with the same number share."""
        if number not in self._numbers:
            name = unique_name(f"float16.limit{len(self._numbers)}", self._taken)
            tensor = ir.Tensor(np.array(number, dtype=np.float32), name=name)
            self._numbers[number] = add_initializer(self._model.graph, tensor)
        return self._numbers[number]

    def _output_in_fp32(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        """Return a graph output cast back to float32, under its original name."""
        name = str(value.name)
        value.name = unique_name(f"{name}.half", self._taken)
        result = ir.Value(name=name, type=ir.TensorType(_FLOAT32), shape=value.shape)
        graph.append(ir.node("Cast", [value], {"to": int(_FLOAT32)}, outputs=[result], name=f"{name}.cast"))
        return result
