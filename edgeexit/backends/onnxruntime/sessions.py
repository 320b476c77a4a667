"""Opens sessions of ONNX Runtime from verified bytes: ONNX Runtime itself opens no file of a bundle."""

import hashlib
import math
import mmap
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeexit.bundle import Bundle
from edgeexit.bundle.stage_graphs import StageGraph, StoredTensor
from edgeexit.errors import BundleError

UNSAFE_OPTIMISERS: Final = ("MatmulTransposeFusion", "QDQPropagationTransformer")
"""Graph optimizers that every session disables, because they crash the process.

The first crashes if a float16 tensor is transposed before a matmul (ONNX Runtime 1.23 to 1.32 on x86-64, issue 28392),
the second if a subgraph captures a tensor that was dequantized and then transposed or reshaped (1.32). int8 and fp32
networks are not slower without them."""

_DTYPES: Final = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64, 14: np.complex64, 15: np.complex128,
}  # fmt: skip
"""Number in onnx.TensorProto.DataType -> dtype."""
_MAX_COPIED_BYTES: Final = 64 << 20
"""Larger files of weights are mapped instead of read.

ONNX Runtime copies most weights into the layout of its kernels and keeps the others where they are. Memory that was
read would hold the copied ones twice; of a mapped file, the system drops the pages that are not used. For 108 MiB of
fp32 weights (scripts/bench/loading.py, ONNX Runtime 1.32), sessions need 233 MiB of anonymous memory if the file is
read, 125 MiB if it is mapped, and 109 MiB if ONNX Runtime opens the unverified file itself."""
_SMALL_BYTES: Final = 1 << 16
_ALIGNMENT: Final = 64
"""Tensors that are small or not aligned are copied, also from a mapped file."""


class Weights:
    """The verified content of a bundle's files of weights. Stages that share a tensor share its memory.

    Raises BundleError if a file is damaged.
    """

    def __init__(self, bundle: Bundle, graphs: Sequence[StageGraph]) -> None:
        self._bundle = bundle
        self._files: dict[str, mmap.mmap | bytes] = {}
        for name in sorted({tensor.file for graph in graphs for tensor in graph.weights}):
            is_large = bundle.manifest.files[name].size > _MAX_COPIED_BYTES
            self._files[name] = bundle.map(name) if is_large else bundle.read(name)

    def array(self, tensor: StoredTensor) -> npt.NDArray[Any]:
        """Return the data of a tensor. Raises BundleError if it does not fit its file."""
        where = f"bundle '{self._bundle.path}': weight '{tensor.name}'"
        dtype, file = _DTYPES.get(tensor.data_type), self._files[tensor.file]
        if dtype is None:
            raise BundleError(f"{where} has type {tensor.data_type} of ONNX, which only a graph itself can contain")
        count = math.prod(tensor.shape)
        size = count * np.dtype(dtype).itemsize
        if tensor.length not in {None, size} or tensor.offset + size > len(file):
            raise BundleError(f"{where} of {size:,} bytes does not fit {tensor.file}; compile the bundle again")
        array = np.frombuffer(file, np.uint8, size, tensor.offset) if size else np.empty(0, np.uint8)
        if size < _SMALL_BYTES or tensor.offset % _ALIGNMENT:
            array = array.copy()
        return array.view(dtype).reshape(tensor.shape)

    def require_unchanged(self) -> None:
        """Raise BundleError if a mapped file has been overwritten since it was verified."""
        for name, file in self._files.items():
            is_mapped = isinstance(file, mmap.mmap)
            if is_mapped and hashlib.sha256(file).hexdigest() != self._bundle.manifest.files[name].sha256:
                raise BundleError(f"bundle '{self._bundle.path}': {name} was overwritten; copy the bundle again")


class StageSession(ort.InferenceSession):  # type: ignore[misc]
    """A session whose graph and weights are in memory.

    Args:
        graph: the ONNX file.
        options: for this session only.
        provider: execution provider.
        stored: initializers of the graph that are in other files.
        weights: the content of these files; None if there are none.

    Raises the exceptions of ONNX Runtime, and BundleError for a tensor that does not fit its file.

    """

    def __init__(
        self,
        graph: bytes,
        options: ort.SessionOptions,
        provider: str,
        *,
        stored: Sequence[StoredTensor] = (),
        weights: Weights | None = None,
    ) -> None:
        # ONNX Runtime uses this memory without owning it, so it must live as long as the session.
        self._weights: list[ort.OrtValue] = []
        if weights is not None and stored:
            self._weights = [ort.OrtValue.ortvalue_from_numpy(weights.array(tensor)) for tensor in stored]
            options.add_external_initializers([tensor.name for tensor in stored], self._weights)
        # Otherwise ONNX Runtime would also accept its own format, in which `read_stage_graph` cannot look.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        super().__init__(graph, options, providers=[provider], disabled_optimizers=UNSAFE_OPTIMISERS)
