"""Adds the readout to a stage: temperature, softmax, top-2 and entropy, in operators that TensorRT takes too."""

import numpy as np
import onnx_ir as ir

from edgeexit.manifest import READOUT_SUFFIX, TEMPERATURE_INPUT


def add_readout(graph: ir.Graph, exit_value: ir.Value) -> None:
    """Add the input `edgeexit.temperature` [1] float32 and the output `<exit>.readout` [B, 4] float32.

    Columns: top-1 class, its probability, the runner-up's, entropy in nats; probabilities are softmax(logits / T).
    `exit_value` is [B, C] float32 with C >= 2.
    """
    prefix = f"{exit_value.name}{READOUT_SUFFIX}"
    temperature = ir.Value(name=TEMPERATURE_INPUT, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    graph.inputs.append(temperature)

    def constant(name: str, *values: int) -> ir.Value:
        tensor = ir.Tensor(np.array(values, dtype=np.int64), name=f"{prefix}.{name}")
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        graph.register_initializer(value)
        return value

    def add(
        op: str, *inputs: ir.Value, makes: tuple[str, ...], attributes: dict[str, int] | None = None
    ) -> tuple[ir.Value, ...]:
        outputs = [ir.Value(name=f"{prefix}.{name}" if name else prefix) for name in makes]
        node = ir.node(op, inputs, attributes, outputs=outputs, name=f"{prefix}.{op}.{makes[0] or 'result'}")
        graph.append(node)
        return tuple(node.outputs)

    zero, one, two = constant("zero", 0), constant("one", 1), constant("two", 2)
    (scaled,) = add("Div", exit_value, temperature, makes=("scaled",))
    (probabilities,) = add("Softmax", scaled, makes=("probabilities",), attributes={"axis": 1})
    (log_probabilities,) = add("LogSoftmax", scaled, makes=("log_probabilities",), attributes={"axis": 1})
    top, classes = add("TopK", probabilities, two, makes=("top", "classes"), attributes={"axis": 1})
    (first,) = add("Slice", classes, zero, one, one, makes=("first",))
    (first_float,) = add("Cast", first, makes=("class",), attributes={"to": int(ir.DataType.FLOAT)})
    (terms,) = add("Mul", probabilities, log_probabilities, makes=("terms",))
    (negative,) = add("ReduceSum", terms, one, makes=("negative_entropy",), attributes={"keepdims": 1})
    (entropy,) = add("Neg", negative, makes=("entropy",))
    (readout,) = add("Concat", first_float, top, entropy, makes=("",), attributes={"axis": 1})
    batch = exit_value.shape[0] if exit_value.shape is not None else None
    readout.type, readout.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([batch, 4])
    graph.outputs.append(readout)
