"""Traits of the ONNX Runtime backend."""

from typing import Final

from edgeexit.backends.traits import BackendTraits

ONNXRUNTIME: Final = BackendTraits(
    name="onnxruntime",
    title="ONNX Runtime",
    summary="ONNX Runtime runs the ONNX graphs of the stages",
    backend="edgeexit.backends.onnxruntime.backend:OnnxRuntimeBackend",
    uses_session=True,
    qdq_placement="around",
    blocked_layout=True,
    extra="onnxruntime",
    probe_modules=("onnxruntime",),
)
