"""Makes the nodes and constants that replace a packed computation, with names and shapes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeexit.compiler.graph import add_initializer, names_in, unique_name
from edgeexit.compiler.unpack.regions import Region, dims_of, dims_of_region

_END: Final = np.iinfo(np.int64).max


class Rewriter:
    """Appends nodes to a graph and makes their names unique. The graph needs a topological sort afterwards."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._taken = names_in(graph)

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        like: ir.Value,
        shape: ir.Shape | None,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """Append a node and return its output, which has the type of `like` and is named after it."""
        node = ir.node(op_type, inputs, attributes or {})
        return self._append(node, like, shape, dtype)

    def copy(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], *, like: ir.Value, shape: ir.Shape | None
    ) -> ir.Value:
        """Append a copy of a node with other inputs and one output, and return the output."""
        new = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=1, name=node.name)
        return self._append(new, like, shape, None)

    def name(self, wanted: str) -> str:
        """Return a name that no value or node has, made from `wanted`."""
        return unique_name(wanted, self._taken)

    def constant(self, array: npt.NDArray[Any], *, name: str) -> ir.Value:
        """Register an initializer and return it."""
        unique = unique_name(name, self._taken)
        return add_initializer(self._graph, ir.Tensor(array, name=unique))

    def integers(self, numbers: Sequence[int], *, name: str) -> ir.Value:
        """Register a one-dimensional int64 initializer and return it."""
        return self.constant(np.array(numbers, dtype=np.int64), name=name)

    def cut(self, value: ir.Value, region: Region) -> ir.Value:
        """Return a region of a value, which `is_slice`: as the output of a Slice, or as a constant."""
        axes = [axis for axis, part in enumerate(region) if part is not None]
        parts = [part for part in region if part is not None]
        if value.const_value is not None:
            array = value.const_value.numpy()
            for axis, part in zip(axes, parts, strict=True):
                array = array[(slice(None),) * axis + (_slice_of(part.picked),)]
            unique = unique_name(str(value.name), self._taken)
            return add_initializer(self._graph, ir.Tensor(array, dtype=value.const_value.dtype, name=unique))
        dims = dims_of(value)
        steps = [part.picked.step if part.is_plain else part.size for part in parts]
        ends = [_end_of(part.picked) if part.is_plain else _END for part in parts]
        name = str(value.name)
        inputs = [
            value,
            self.integers([part.picked.start for part in parts], name=f"{name}.starts"),
            self.integers(ends, name=f"{name}.ends"),
            self.integers(axes, name=f"{name}.axes"),
            self.integers(steps, name=f"{name}.steps"),
        ]
        shape = None if dims is None else ir.Shape(dims_of_region(dims, region))
        return self.emit("Slice", inputs, like=value, shape=shape)

    def edit_shape(self, sizes: ir.Value, length: int, replaced: Mapping[int, int]) -> ir.Value:
        """Return a shape tensor [length] with some of its elements replaced."""
        name = f"{sizes.name}.part"
        if sizes.const_value is not None:
            numbers = sizes.const_value.numpy().copy()
            for axis, size in replaced.items():
                numbers[axis] = size
            return self.constant(numbers, name=name)
        pieces: list[ir.Value] = []
        start = 0
        for axis in [*sorted(replaced), length]:
            if axis > start:
                ends = [self.integers([number], name=f"{name}.range") for number in (start, axis)]
                pieces.append(self.emit("Slice", [sizes, *ends], like=sizes, shape=ir.Shape([axis - start])))
            if axis < length:
                pieces.append(self.integers([replaced[axis]], name=name))
            start = axis + 1
        return self.emit("Concat", pieces, {"axis": 0}, like=sizes, shape=ir.Shape([length]))

    def _append(self, node: ir.Node, like: ir.Value, shape: ir.Shape | None, dtype: ir.DataType | None) -> ir.Value:
        (output,) = node.outputs
        producer = like.producer()
        original = node.name or (None if producer is None else producer.name) or f"{like.name}.{node.op_type}"
        node.name = unique_name(original, self._taken)
        output.name = unique_name(str(like.name), self._taken)
        output.type = like.type if dtype is None else ir.TensorType(dtype)
        output.shape = shape
        self._graph.append(node)
        return output


def _slice_of(picked: range) -> slice:
    return slice(picked.start, picked.stop if picked.stop >= 0 else None, picked.step)


def _end_of(picked: range) -> int:
    return picked.stop if picked.stop >= 0 else -_END
