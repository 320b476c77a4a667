"""Traits of the dummy backend."""

from edgeexit.backends.traits import BackendTraits

DUMMY = BackendTraits(
    name="dummy",
    title="ONNX's reference evaluator",
    summary="ONNX's reference evaluator runs the ONNX graphs of the stages",
    backend="tests.backends.dummy.backend:DummyBackend",
    engines="tests.backends.dummy.engines",
    probe_modules=("onnx",),
)
