"""Adds the readout to a stage: temperature, softmax, top-2 and entropy, with operators that TensorRT supports too."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, Task
from edgeexit.compiler.graph import add_initializer, names_in, unique_name

_COLUMNS = 4


class _Distribution(NamedTuple):
    """The class distribution of an exit."""

    classes: ir.Value
    """[B, 1] int64 top-1 class."""
    probabilities: ir.Value
    """[B, C] probabilities."""
    top: ir.Value
    """[B, 2] highest and second highest probability."""
    entropy: ir.Value
    """[B, 1] entropy in nats."""


def add_readout(graph: ir.Graph, exit_value: ir.Value, *, task: Task, classes: int) -> None:
    """Add the input `edgeexit.temperature` [1] and two outputs for an exit to the graph, all float32.

    `<exit>.readout` [B, 4]: top-1 class, its probability p1, the second highest probability p2, and the entropy in nats
    of softmax(logits / T). `<exit>.probabilities` [B, C]: the probabilities of all classes. For segmentation and
    tagging, they are averages over the pixels or tokens, and the class is the one with the highest average probability.

    `exit_value` is float32 with C >= 2 classes: [B, C]; [B, C, H, W] for segmentation, [B, C, 1, T] for tagging.
    """
    temperature = ir.Value(name=TEMPERATURE_INPUT, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    graph.inputs.append(temperature)
    add = _ReadoutBuilder(graph, str(exit_value.name))
    scaled = add("Div", exit_value, temperature, output="scaled")
    found = (_classification_readout if task == "classification" else _map_readout)(add, scaled)
    class_number = add("Cast", found.classes, output="class", to=int(ir.DataType.FLOAT))
    readout = add("Concat", class_number, found.top, found.entropy, output="all", axis=1)
    batch = exit_value.shape[0] if exit_value.shape is not None else None
    for value, suffix, columns in (
        (readout, READOUT_SUFFIX, _COLUMNS),
        (found.probabilities, PROBABILITIES_SUFFIX, classes),
    ):
        value.name = f"{exit_value.name}{suffix}"
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([batch, columns])
        graph.outputs.append(value)


class _ReadoutBuilder:
    """Adds nodes to a graph; their names begin with the name of the exit."""

    def __init__(self, graph: ir.Graph, exit_name: str) -> None:
        self._graph = graph
        self._prefix = f"{exit_name}{READOUT_SUFFIX}"
        self._taken = names_in(graph)

    def __call__(self, op: str, *inputs: ir.Value, output: str, **attributes: int) -> ir.Value:
        """Add a node with one output and return it; the names of node and output end with `output`."""
        value = self._value(output)
        self._graph.append(self._node(op, inputs, attributes, [value], output))
        return value

    def top(self, probabilities: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Add a TopK of the two highest entries along axis 1; return the values and the indices."""
        outputs = [self._value(name) for name in ("top", "indices")]
        two = self.constant("two", 2)
        self._graph.append(self._node("TopK", (probabilities, two), {"axis": 1}, outputs, "top"))
        return outputs[0], outputs[1]

    def constant(self, name: str, *numbers: int) -> ir.Value:
        """Add a one-dimensional int64 initializer."""
        unique = unique_name(f"{self._prefix}.{name}", self._taken)
        return add_initializer(self._graph, ir.Tensor(np.array(numbers, dtype=np.int64), name=unique))

    def _value(self, name: str) -> ir.Value:
        return ir.Value(name=unique_name(f"{self._prefix}.{name}", self._taken))

    def _node(
        self,
        op: str,
        inputs: tuple[ir.Value, ...],
        attributes: Mapping[str, int],
        outputs: list[ir.Value],
        output: str,
    ) -> ir.Node:
        name = unique_name(f"{self._prefix}.{op}.{output}", self._taken)
        return ir.node(op, inputs, attributes, outputs=outputs, name=name)


def _classification_readout(add: _ReadoutBuilder, scaled: ir.Value) -> _Distribution:
    """Return the distribution of scaled logits [B, C]."""
    probabilities = add("Softmax", scaled, output="softmax", axis=1)
    top, indices = add.top(probabilities)
    one = add.constant("one", 1)
    first = add("Slice", indices, add.constant("zero", 0), one, one, output="first")
    return _Distribution(first, probabilities, top, _entropy(add, scaled, probabilities))


def _map_readout(add: _ReadoutBuilder, scaled: ir.Value) -> _Distribution:
    """Return the distribution of scaled logits [B, C, H, W]: averages over H and W."""
    by_pixel = add("Softmax", scaled, output="softmax", axis=1)
    entropy = _average(add, _entropy(add, scaled, by_pixel), output="entropy")
    top = _average(add, add.top(by_pixel)[0], output="top")
    probabilities = _average(add, by_pixel, output="softmax")
    first = add("ArgMax", probabilities, output="first", axis=1, keepdims=1)
    return _Distribution(first, probabilities, top, entropy)


def _entropy(add: _ReadoutBuilder, scaled: ir.Value, probabilities: ir.Value) -> ir.Value:
    """Return the entropy over axis 1, [B, 1, ...] in nats; it is finite also where a probability is 0."""
    logs = add("LogSoftmax", scaled, output="log_softmax", axis=1)
    terms = add("Mul", probabilities, logs, output="terms")
    negative = add("ReduceSum", terms, add.constant("axis", 1), output="negative_entropy", keepdims=1)
    return add("Neg", negative, output="entropy")


def _average(add: _ReadoutBuilder, values: ir.Value, *, output: str) -> ir.Value:
    """Return the average [B, n] of values [B, n, H, W] over the pixels."""
    pooled = add("GlobalAveragePool", values, output=f"{output}_average")
    return add("Flatten", pooled, output=f"{output}_row", axis=1)
