"""Random ONNX networks that pack their exits into one tensor, compute on it, and take it apart again."""

from random import Random

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from edgeexit.compiler.normalise import normalise

WIDTH = 4
UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Softplus", "Identity")


class PackedNetwork:
    """A network of a few blocks, whose features are packed in one tensor with the axes B, K and D.

    `axes` is the present order of the axes; "R" is the flattened B and K, "M" the flattened K and D.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.exits = rng.randint(2, 4)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.axes = ""
        self.rows = ""  # the order of the flattened axes

    def add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def integers(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, dtype=np.int64))

    def floats(self, *shape: int) -> str:
        seed = self.rng.randrange(1 << 30)
        return self.constant(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def size(self, axis: str) -> int:
        return {"K": self.exits, "D": WIDTH, "B": -1, "R": -1, "M": self.exits * WIDTH}[axis]

    def features(self) -> list[str]:
        found, x = [], "x"
        for _ in range(self.exits):
            x = self.add("Tanh", self.add("MatMul", x, self.floats(WIDTH, WIDTH)))
            found.append(x)
        return found

    def pack(self, features: list[str]) -> str:
        kind = self.rng.choice(("stack", "stack", "cat", "write"))
        if kind == "cat":
            self.axes = "BM"
            return self.add("Concat", *features, axis=1)
        axis = self.rng.randrange(3)
        self.axes = "BD"[:axis] + "K" + "BD"[axis:]
        parts = [self.add("Unsqueeze", feature, self.integers(axis)) for feature in features]
        if kind == "stack":
            return self.add("Concat", *parts, axis=axis)
        shape = self.add("Shape", parts[0])
        sizes = [
            self.add("Shape", "x", start=0, end=1) if size < 0 else self.integers(size)
            for size in map(self.size, self.axes)
        ]
        packed = self.add("ConstantOfShape", self.add("Concat", *sizes, axis=0))
        for index, part in enumerate(parts):
            number = self.constant(np.array(index, dtype=np.int64))
            places = self.add("Expand", number, shape)
            packed = self.add("ScatterElements", packed, places, part, axis=axis)
        return packed

    def step(self, packed: str) -> str:
        """Add a random operator that does not mix the exits."""
        choices = [self.unary, self.add_constant, self.softmax]
        if len(self.axes) == 3:
            choices += [self.transpose, self.flatten, self.cumulate]
        else:
            choices += [self.unflatten, self.unflatten]
        if self.axes[-1] == "D":
            choices += [self.shared_head, self.layer_norm]
        if self.axes == "KBD":
            choices += [self.own_heads]
        if self.axes == "BKD":
            choices += [self.einsum, self.batch_norm]
        if self.axes == "BM":
            choices += [self.group_conv]
        return self.rng.choice(choices)(packed)

    def unary(self, packed: str) -> str:
        return self.add(self.rng.choice(UNARY), packed)

    def add_constant(self, packed: str) -> str:
        shape = [1 if self.size(axis) < 0 else self.size(axis) for axis in self.axes]
        return self.add(self.rng.choice(("Add", "Mul", "Max")), packed, self.floats(*shape))

    def softmax(self, packed: str) -> str:
        return self.add("Softmax", packed, axis=self.axes.index("D")) if "D" in self.axes else self.unary(packed)

    def transpose(self, packed: str) -> str:
        perm = self.rng.sample(range(3), 3)
        self.axes = "".join(self.axes[axis] for axis in perm)
        return self.add("Transpose", packed, perm=perm)

    def flatten(self, packed: str) -> str:
        """Flatten B and K, or K and D, if they are next to each other."""
        if "KD" in self.axes and self.axes[0] == "B" and self.rng.random() < 0.5:
            self.axes = "BM"
        elif self.axes[-1] == "D":
            self.rows, self.axes = self.axes[:2], "RD"
        else:
            return packed
        return self.add("Reshape", packed, self.integers(-1, self.size(self.axes[1])))

    def unflatten(self, packed: str) -> str:
        self.axes = "BKD" if self.axes == "BM" else f"{self.rows}D"
        return self.add("Reshape", packed, self.integers(*map(self.size, self.axes)))

    def cumulate(self, packed: str) -> str:
        return self.add("CumSum", packed, self.constant(np.array(self.axes.index("K"), dtype=np.int64)))

    def shared_head(self, packed: str) -> str:
        packed = self.add("MatMul", packed, self.floats(WIDTH, WIDTH))
        return self.add("Add", packed, self.floats(WIDTH))

    def layer_norm(self, packed: str) -> str:
        return self.add("LayerNormalization", packed, self.floats(WIDTH), axis=-1)

    def own_heads(self, packed: str) -> str:
        return self.add("MatMul", packed, self.floats(self.exits, WIDTH, WIDTH))

    def einsum(self, packed: str) -> str:
        return self.add("Einsum", packed, self.floats(self.exits, WIDTH, WIDTH), equation="bkd,kdc->bkc")

    def batch_norm(self, packed: str) -> str:
        variance = self.constant(np.linspace(1, 2, self.exits, dtype=np.float32))
        return self.add("BatchNormalization", packed, *(self.floats(self.exits) for _ in range(3)), variance)

    def group_conv(self, packed: str) -> str:
        packed = self.add("Unsqueeze", packed, self.integers(2))
        weight = self.floats(self.size("M"), WIDTH, 1)
        return self.add("Squeeze", self.add("Conv", packed, weight, group=self.exits), self.integers(2))

    def unpack(self, packed: str) -> list[str]:
        if self.axes == "RD":
            packed = self.unflatten(packed)
        axis = self.axes.index("M" if self.axes == "BM" else "K")
        kind = self.rng.choice(("Split", "Slice", "Gather", "Split"))
        if self.axes == "BM":
            parts = self.split(packed, axis) if kind == "Split" else self.slices(packed, axis, WIDTH)
        elif kind == "Gather":
            parts = [self.gather(packed, axis, index) for index in range(self.exits)]
        else:
            parts = self.split(packed, axis) if kind == "Split" else self.slices(packed, axis, 1)
            parts = [self.add("Squeeze", part, self.integers(axis)) for part in parts]
        left = self.axes.replace("K", "")
        return [self.add("Transpose", part, perm=[1, 0]) if left == "DB" else part for part in parts]

    def split(self, packed: str, axis: int) -> list[str]:
        names = [f"split{len(self.nodes)}.{index}" for index in range(self.exits)]
        self.nodes.append(helper.make_node("Split", [packed], names, axis=axis, num_outputs=self.exits))
        return names

    def slices(self, packed: str, axis: int, width: int) -> list[str]:
        ends = [(index + 1) * width for index in range(self.exits)]
        return [
            self.add("Slice", packed, self.integers(end - width), self.integers(end), self.integers(axis))
            for end in ends
        ]

    def gather(self, packed: str, axis: int, index: int) -> str:
        number = index - self.exits if self.rng.random() < 0.5 else index
        return self.add("Gather", packed, self.constant(np.array(number, dtype=np.int64)), axis=axis)

    def model(self, *, steps: int) -> ir.Model:
        packed = self.pack(self.features())
        for _ in range(steps):
            packed = self.step(packed)
        for index, part in enumerate(self.unpack(packed)):
            last = self.rng.choice((part, self.add("Div", part, self.floats(1))))
            self.nodes.append(helper.make_node("Identity", [last], [f"e{index}"]))
        names = [f"e{index}" for index in range(self.exits)]
        sides = [("x",), tuple(names)]
        inputs, outputs = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in side] for side in sides
        )
        graph = helper.make_graph(self.nodes, "packed", inputs, outputs, self.constants)
        opset = [helper.make_opsetid("", 18)]
        model = ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=9))
        normalise(model, exits=names)
        return model
