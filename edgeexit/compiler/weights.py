"""Stores the weights once, in one file that every stage references."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx_ir as ir

from edgeexit.compiler.reasons import reason_of
from edgeexit.errors import CompileError

WEIGHTS: Final = "weights.bin"

_INLINE_BYTES: Final = 1024
_ALIGNMENT: Final = 4096  # a page, so that runtimes can map the file


def read_small_weights(model: ir.Model) -> None:
    """Take initializers that stay inline out of the data files of an ONNX file. Raises CompileError."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= _INLINE_BYTES:
                try:
                    value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=value.name)
                except (OSError, ValueError) as error:
                    raise _unreadable(tensor, error) from error


def store_weights(model: ir.Model, folder: Path) -> None:
    """Write every initializer above 1 KiB to `weights.bin` in `folder` and make the model refer to it.

    Equal bytes are stored once, whatever their names. No file is written where there is nothing to store. Raises
    CompileError when the data that an initializer refers to cannot be read.
    """
    path = folder / WEIGHTS
    offsets: dict[bytes, int] = {}
    with path.open("wb") as file:
        for value, tensor in _large(model.graph):
            content = _bytes_of(tensor)
            digest = hashlib.sha256(content).digest()
            if digest not in offsets:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                offsets[digest] = file.tell()
                file.write(content)
            value.const_value = ir.ExternalTensor(
                WEIGHTS,
                offsets[digest],
                len(content),
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                base_dir=folder,
            )
    if not offsets:
        path.unlink()


def _large(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes > _INLINE_BYTES:
            yield value, tensor


def _bytes_of(tensor: ir.TensorProtocol) -> bytes:
    try:
        return tensor.tobytes()
    except (OSError, ValueError) as error:
        raise _unreadable(tensor, error) from error


def _unreadable(tensor: ir.TensorProtocol, error: Exception) -> CompileError:
    where = f" in '{tensor.location}'" if isinstance(tensor, ir.ExternalTensor) else ""
    return CompileError(f"weight '{tensor.name}'{where} cannot be read: {reason_of(error)}")
