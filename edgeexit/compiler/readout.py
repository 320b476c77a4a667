"""Adds the readout to a stage: temperature, softmax, top-2 and entropy, in operators that TensorRT takes too."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, Task
from edgeexit.compiler.graph import free_name, names_in

_COLUMNS = 4


class _Distribution(NamedTuple):
    """What an exit says of its classes."""

    classes: ir.Value
    """[B, 1] int64 top-1 class."""
    probabilities: ir.Value
    """[B, C]."""
    top: ir.Value
    """[B, 2] highest and second highest probability."""
    entropy: ir.Value
    """[B, 1] in nats."""


def add_readout(graph: ir.Graph, exit_value: ir.Value, *, task: Task, classes: int) -> None:
    """Add the input `edgeexit.temperature` [1] and two outputs of an exit, all float32.

    `<exit>.readout` [B, 4]: top-1 class, its probability, the runner-up's, entropy in nats; probabilities are
    softmax(logits / T). `<exit>.probabilities` [B, C]: all of them. To segment, the numbers are averages over the
    pixels, and the class is the one with the highest average probability.

    `exit_value` is float32 with C >= 2 classes: [B, C], or [B, C, H, W] to segment.
    """
    temperature = ir.Value(name=TEMPERATURE_INPUT, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    graph.inputs.append(temperature)
    write = _Writer(graph, str(exit_value.name))
    scaled = write("Div", exit_value, temperature, makes="scaled")
    found = (_over_pixels if task == "segmentation" else _of_sample)(write, scaled)
    class_number = write("Cast", found.classes, makes="class", to=int(ir.DataType.FLOAT))
    readout = write("Concat", class_number, found.top, found.entropy, makes="all", axis=1)
    batch = exit_value.shape[0] if exit_value.shape is not None else None
    for value, suffix, columns in (
        (readout, READOUT_SUFFIX, _COLUMNS),
        (found.probabilities, PROBABILITIES_SUFFIX, classes),
    ):
        value.name = f"{exit_value.name}{suffix}"
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([batch, columns])
        graph.outputs.append(value)


class _Writer:
    """Adds nodes to a graph under names that begin with the exit's."""

    def __init__(self, graph: ir.Graph, exit_name: str) -> None:
        self._graph = graph
        self._prefix = f"{exit_name}{READOUT_SUFFIX}"
        self._taken = names_in(graph)

    def __call__(self, op: str, *inputs: ir.Value, makes: str, **attributes: int) -> ir.Value:
        """Add a node and return what it makes; of several outputs, the first."""
        output = self._value(makes)
        self._graph.append(self._node(op, inputs, attributes, [output], makes))
        return output

    def top(self, probabilities: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Add the two highest entries along axis 1; return them and their places."""
        outputs = [self._value(name) for name in ("top", "places")]
        two = self.constant("two", 2)
        self._graph.append(self._node("TopK", (probabilities, two), {"axis": 1}, outputs, "top"))
        return outputs[0], outputs[1]

    def constant(self, name: str, *numbers: int) -> ir.Value:
        """Add an int64 constant."""
        free = free_name(f"{self._prefix}.{name}", self._taken)
        tensor = ir.Tensor(np.array(numbers, dtype=np.int64), name=free)
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _value(self, name: str) -> ir.Value:
        return ir.Value(name=free_name(f"{self._prefix}.{name}", self._taken))

    def _node(
        self,
        op: str,
        inputs: tuple[ir.Value, ...],
        attributes: Mapping[str, int],
        outputs: list[ir.Value],
        makes: str,
    ) -> ir.Node:
        name = free_name(f"{self._prefix}.{op}.{makes}", self._taken)
        return ir.node(op, inputs, attributes, outputs=outputs, name=name)


def _of_sample(write: _Writer, scaled: ir.Value) -> _Distribution:
    """Read out logits [B, C] over the temperature."""
    probabilities = write("Softmax", scaled, makes="softmax", axis=1)
    top, places = write.top(probabilities)
    one = write.constant("one", 1)
    first = write("Slice", places, write.constant("zero", 0), one, one, makes="first")
    return _Distribution(first, probabilities, top, _entropy(write, scaled, probabilities))


def _over_pixels(write: _Writer, scaled: ir.Value) -> _Distribution:
    """Read out logits [B, C, H, W] over the temperature: averages over H and W."""
    by_pixel = write("Softmax", scaled, makes="softmax", axis=1)
    entropy = _average(write, _entropy(write, scaled, by_pixel), makes="entropy")
    top = _average(write, write.top(by_pixel)[0], makes="top")
    probabilities = _average(write, by_pixel, makes="softmax")
    first = write("ArgMax", probabilities, makes="first", axis=1, keepdims=1)
    return _Distribution(first, probabilities, top, entropy)


def _entropy(write: _Writer, scaled: ir.Value, probabilities: ir.Value) -> ir.Value:
    """Return the entropy over axis 1, which stays with length 1; finite where a probability is 0."""
    logs = write("LogSoftmax", scaled, makes="log_softmax", axis=1)
    terms = write("Mul", probabilities, logs, makes="terms")
    negative = write("ReduceSum", terms, write.constant("axis", 1), makes="negative_entropy", keepdims=1)
    return write("Neg", negative, makes="entropy")


def _average(write: _Writer, values: ir.Value, *, makes: str) -> ir.Value:
    """Return the average [B, n] of values [B, n, H, W] over the pixels."""
    pooled = write("GlobalAveragePool", values, makes=f"{makes}_average")
    return write("Flatten", pooled, makes=f"{makes}_row", axis=1)
