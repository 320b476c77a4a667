"""Makes the floats inside a model float16, with a cast wherever a float16 and a float32 meet."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.graph import bodies, free_name, names_in
from edgeexit.compiler.precision.widths import (
    ANY_TYPE,
    HALF_MOST,
    beyond_half,
    half_inputs,
    is_float,
    schema_of,
    typed_outputs,
    wide_nodes,
)

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_SURELY_INFINITY = 1e30
"""Nothing is as large as that but what stands for infinity, such as the least float32 in a mask."""
_SUFFIXES = {_FLOAT: "float", _HALF: "half"}


def to_half(
    model: ir.Model, *, kept: AbstractSet[ir.Node] = frozenset(), on_warning: Callable[[str], None] = lambda _: None
) -> None:
    """Make a model without functions float16 in place; inputs, exits and what crosses a body's border stay float32.

    No value becomes infinite by it: a number that stands for infinity, such as a mask's, becomes the largest float16
    of its sign, and a scalar that would vanish, such as an epsilon, the smallest. `on_warning` is told of the former,
    unless it is so large that it can be meant for nothing else.

    Types follow ONNX's operator schemas. The converters that come with ONNX Runtime and onnxconverter-common go by
    lists of operators, put the casts of a body into the main graph, and clip every weight to the range in silence.
    """
    halving = _Halving(model, wide_nodes(model, kept=kept, on_warning=on_warning))
    halving.convert(model.graph)
    halving.finish()
    if halving.clipped:
        names = ", ".join(f"'{name}'" for name in halving.clipped)
        on_warning(f"beyond float16's range, and so clipped to {HALF_MOST:.0f}: {names}")


class _Halving:
    def __init__(self, model: ir.Model, wide: AbstractSet[ir.Node]) -> None:
        self.clipped: list[str] = []
        self._model = model
        self._wide = wide
        self._halves: set[ir.Value] = set()
        """Values that were float32 and are float16 now."""
        self._infinite: dict[ir.Value, float] = {}
        """Values in float32 that hold a number which stands for infinity, and that number's size."""
        self._casts: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}
        self._weights: dict[ir.Value, ir.Value] = {}
        self._taken = names_in(model.graph)

    def convert(self, graph: ir.Graph) -> None:
        """Convert the nodes of a graph; its inputs and outputs stay what they are."""
        for node in list(graph):
            inside = list(bodies(node))
            if inside or node in self._wide:
                self._keep_wide(graph, node)
            else:
                self._narrow(graph, node)
            for body in inside:
                self.convert(body)
        for position, value in enumerate(graph.outputs):
            if value in self._halves:
                graph.outputs[position] = self._restore(graph, value)

    def finish(self) -> None:
        """Drop casts that do nothing any more, and give the weights their names back."""
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

    def _keep_wide(self, graph: ir.Graph, node: ir.Node) -> None:
        for position, value in enumerate(node.inputs):
            if value is not None and value in self._halves:
                node.replace_input_with(position, self._cast(graph, value, _FLOAT, before=node))
        self._trace_infinite(node, node.outputs)

    def _narrow(self, graph: ir.Graph, node: ir.Node) -> None:
        schema = schema_of(node, self._model)
        if schema is None:
            raise ValueError(f"'{node.op_type}' has no schema; it should have been kept")
        able = {position: variable for position, _, variable in half_inputs(node, schema)}
        for position, value in enumerate(node.inputs):
            if value is None or node.op_type in ANY_TYPE:
                continue
            if position in able and is_float(value):
                node.replace_input_with(position, self._as_half(graph, value, before=node))
            elif position not in able and value in self._halves:
                node.replace_input_with(position, self._cast(graph, value, _FLOAT, before=node))
        made_wide = []
        for value, variable in typed_outputs(node, schema):
            if not is_float(value):
                continue
            if node.op_type == "Cast" or variable in able.values():
                value.type = ir.TensorType(_HALF)
                self._halves.add(value)
            else:
                made_wide.append(value)
        if node.op_type == "Cast" and node.outputs[0] in self._halves:
            node.attributes["to"] = ir.AttrInt64("to", int(_HALF))
        self._trace_infinite(node, made_wide)

    def _trace_infinite(self, node: ir.Node, outputs: Sequence[ir.Value]) -> None:
        """Remember which of the float32 `outputs` hold numbers that float16 does not."""
        tensors = [value.const_value for value in node.inputs if value is not None and value.is_initializer()]
        tensors += [a.as_tensor() for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR]
        found = [self._infinite[value] for value in node.inputs if value in self._infinite]
        found += [number for number in map(beyond_half, tensors) if number is not None]
        if found:
            self._infinite |= dict.fromkeys(outputs, min(found))

    def _as_half(self, graph: ir.Graph, value: ir.Value, *, before: ir.Node) -> ir.Value:
        """Return a float32 value in float16, for a node of `graph` to read."""
        if value.is_initializer():
            return self._half_weight(value)
        producer = value.producer()
        if producer is not None and producer.op_type == "Cast" and producer.inputs[0] in self._halves:
            return producer.inputs[0]
        return self._cast(graph, value, _HALF, before=before)

    def _half_weight(self, weight: ir.Value) -> ir.Value:
        if weight not in self._weights:
            tensor = weight.const_value
            if tensor is None:
                raise ValueError(f"initializer '{weight.name}' has no value")
            array = tensor.numpy()
            number = beyond_half(tensor)
            if number is not None:
                self._tell(weight, number)
                array = np.where(np.isfinite(array), array.clip(-HALF_MOST, HALF_MOST), array)
            narrow = array.astype(np.float16)
            if narrow.size == 1 and not narrow.any():
                narrow = narrow + (np.sign(array) * np.finfo(np.float16).smallest_subnormal).astype(np.float16)
            name = free_name(f"{weight.name}.half", self._taken)
            half = ir.Value(name=name, type=ir.TensorType(_HALF), shape=weight.shape, const_value=ir.Tensor(narrow))
            self._model.graph.register_initializer(half)
            self._weights[weight] = half
        return self._weights[weight]

    def _cast(self, graph: ir.Graph, value: ir.Value, to: ir.DataType, *, before: ir.Node) -> ir.Value:
        """Return a value in another type; it is cast once in every graph that reads it."""
        if (graph, value) not in self._casts:
            source = value
            if to == _HALF and value in self._infinite:
                source = self._clip(graph, value, before)
            name = free_name(f"{value.name}.{_SUFFIXES[to]}", self._taken)
            made = ir.Value(name=name, type=ir.TensorType(to), shape=value.shape)
            graph.insert_before(before, ir.node("Cast", [source], {"to": int(to)}, outputs=[made], name=f"{name}.cast"))
            self._casts[graph, value] = made
        return self._casts[graph, value]

    def _clip(self, graph: ir.Graph, value: ir.Value, before: ir.Node) -> ir.Value:
        name = free_name(f"{value.name}.clipped", self._taken)
        made = ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=value.shape)
        bounds = [self._bound(sign * HALF_MOST) for sign in (-1, 1)]
        graph.insert_before(before, ir.node("Clip", [value, *bounds], outputs=[made], name=f"{name}.clip"))
        self._tell(value, self._infinite[value])
        return made

    def _tell(self, value: ir.Value, number: float) -> None:
        if not number >= _SURELY_INFINITY:
            self.clipped.append(str(value.name))

    def _bound(self, number: float) -> ir.Value:
        tensor = ir.Tensor(np.array(number, dtype=np.float32))
        name = free_name(f"float16.{'most' if number > 0 else 'least'}", self._taken)
        value = ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=tensor.shape, const_value=tensor)
        self._model.graph.register_initializer(value)
        return value

    def _restore(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        """Return what a graph gives out in float32 again, under the name that it had."""
        name = str(value.name)
        value.name = free_name(f"{name}.half", self._taken)
        made = ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=value.shape)
        graph.append(ir.node("Cast", [value], {"to": int(_FLOAT)}, outputs=[made], name=f"{name}.cast"))
        return made
