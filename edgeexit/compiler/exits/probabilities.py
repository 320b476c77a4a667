"""Rejects exits that return probabilities (sigmoid or softmax) or predictions (argmax) instead of logits."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeexit.errors import CompileError

_SIGMOIDS: Final = {"HardSigmoid", "Sigmoid"}
_PREDICTIONS: Final = {"ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not"}
_ACTIVATIONS: Final = {*_SIGMOIDS, *_PREDICTIONS, "Softmax"}
_COPIES: Final = {  # they move, round or limit the values of their first input
    "Cast", "CastLike", "Clip", "DepthToSpace", "DequantizeLinear", "Dropout", "Expand", "Flatten", "Gather",
    "GatherND", "Identity", "QuantizeLinear", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze", "Upsample",
}  # fmt: skip
_REDUCTIONS: Final = {  # they combine values of their first input
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
}  # fmt: skip
_MIXES: Final = {"Add", "Div", "Max", "Mean", "Min", "Mul", "Sub", "Sum"}
"""Of probabilities and constants, they may return probabilities: the average of an ensemble, 1 - p."""
_SUM_TOLERANCE: Final = 1e-3


def check_activations(graph: ir.Graph, exits: Iterable[str]) -> None:
    """Raise CompileError for an exit that is the output of a sigmoid, a softmax or an argmax, or a copy or part of it.

    Sigmoids and softmaxes inside the model, such as gates and attention, are accepted. So is LogSoftmax, because
    softmax(log_softmax(z)) = softmax(z).
    """
    outputs = {str(value.name): value for value in graph.outputs}
    for name in exits:
        activation = _activation_behind(outputs[name], single=_COPIES, several={"Concat"})
        if activation is not None:
            raise CompileError(_error(name, activation))


def check_no_probabilities(graph: ir.Graph, logits: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise CompileError for exits whose values show that they are probabilities.

    These are values that are not negative and sum to 1 over the classes (axis 1), and values in [0, 1] that are
    computed from the outputs of sigmoids and softmaxes by averages, products and differences only.

    `logits` are exit name -> [N, C, ...].
    """
    outputs = {str(value.name): value for value in graph.outputs}
    for name, array in logits.items():
        if array.min() < 0:
            continue
        if np.abs(array.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
            raise CompileError(_error(name, "Softmax"))
        if array.max() <= 1:
            activation = _activation_behind(outputs[name], single=_COPIES | _REDUCTIONS, several={*_MIXES, "Concat"})
            if activation is not None:
                raise CompileError(_error(name, activation))


def _error(exit_name: str, activation: str) -> str:
    if activation in _PREDICTIONS:
        return f"exit '{exit_name}' returns predictions (the result of {activation}); return the logits"
    if activation not in _SIGMOIDS:
        return f"exit '{exit_name}' returns probabilities; return logits, without the softmax"
    return (
        f"exit '{exit_name}' returns the output of a sigmoid; return logits, without the sigmoid (one logit is two "
        "classes). Multi-label outputs are not supported, because policies compare the classes by softmax"
    )


def _activation_behind(value: ir.Value, *, single: AbstractSet[str], several: AbstractSet[str]) -> str | None:
    """Return the sigmoid or softmax that a value comes from, or None if any part of it comes from anything else.

    The search continues through the first input of the operators `single`, and through all inputs of `several`;
    constants among these do not count.
    """
    found: str | None = None
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        operator = "" if node is None or node.domain else node.op_type
        sources: Sequence[ir.Value | None] = ()
        if node is not None and operator in single:
            sources = node.inputs[:1]
        elif node is not None and operator in several:
            sources = [source for source in node.inputs if source is not None and not source.is_initializer()]
        elif operator in _ACTIVATIONS:
            found = operator
            continue
        if not sources or None in sources:
            return None
        for source in sources:
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)
    return found
