"""Writes graph files, and one file of weights that all graphs reference."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeexit.compiler.error_text import reason_of
from edgeexit.errors import CompileError

WEIGHTS: Final = "weights.bin"

_INLINE_BYTES: Final = 1024
_ALIGNMENT: Final = 4096  # one page, so that runtimes can memory-map the weights
_CHUNK_BYTES: Final = 1 << 24
_BITS_PER_BYTE: Final = 8
_BUILT_IN: Final = 1
"""`numpy.dtype.isbuiltin` of numpy's own types; bfloat16 and the small floats and integers have 2."""


def read_small_weights(model: ir.Model) -> None:
    """Load the small initializers of a model from its external data files into memory. Raises CompileError."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= _INLINE_BYTES:
                try:
                    value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=value.name)
                except (OSError, ValueError) as error:
                    raise _unreadable(tensor, error) from error


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph after `store_weights` has stored its weights. Raises CompileError if the file cannot be written."""
    try:
        ir.save(model, path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def store_weights(model: ir.Model, folder: Path) -> None:
    """Write each initializer of the main graph above 1 KiB to `weights.bin` in `folder`; the model then references it.

    Initializers of types that numpy does not have, e.g. int4, stay in the graph. Initializers with equal bytes are
    stored once. Weights are read and written in chunks, so a model may be larger than memory. No file is written if
    there are no such initializers. Raises CompileError if the data of an initializer cannot be read, or the file cannot
    be written.
    """
    path = folder / WEIGHTS
    offsets: dict[bytes, int] = {}
    end = 0
    try:
        with path.open("wb") as file:
            for value, tensor in _large(model.graph):
                digest = hashlib.sha256()
                for chunk in _chunks(tensor):
                    digest.update(chunk)
                if digest.digest() not in offsets:
                    start = end + -end % _ALIGNMENT
                    offsets[digest.digest()] = start
                    file.seek(start)
                    for chunk in _chunks(tensor):
                        file.write(chunk)
                    end = start + tensor.nbytes
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    offsets[digest.digest()],
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    base_dir=folder,
                )
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    if not offsets:
        path.unlink()


def _large(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and _is_numpy_type(tensor.dtype) and tensor.nbytes > _INLINE_BYTES:
            yield value, tensor


def _is_numpy_type(dtype: ir.DataType) -> bool:
    """Return True for a type of numpy itself: ONNX Runtime takes weights of other types only inside a graph."""
    return dtype != ir.DataType.STRING and dtype.numpy().isbuiltin == _BUILT_IN


def _chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a tensor in ONNX's format."""
    try:
        if tensor.dtype.bitwidth < _BITS_PER_BYTE or sys.byteorder != "little":  # elements are packed or byte-swapped
            yield tensor.tobytes()
            return
        content = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    except (OSError, ValueError) as error:
        raise _unreadable(tensor, error) from error
    for start in range(0, len(content), _CHUNK_BYTES):
        yield content[start : start + _CHUNK_BYTES].data


def _unreadable(tensor: ir.TensorProtocol, error: Exception) -> CompileError:
    where = f" in '{tensor.location}'" if isinstance(tensor, ir.ExternalTensor) else ""
    return CompileError(f"weight '{tensor.name}'{where} cannot be read: {reason_of(error)}")


def _unwritable(path: Path, error: OSError) -> CompileError:
    return CompileError(f"{path.name} cannot be written: {error.strerror or reason_of(error)}")
