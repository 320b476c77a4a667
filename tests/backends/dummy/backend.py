"""The dummy backend: one reference evaluator per stage."""

import onnx
from onnx.reference import ReferenceEvaluator

from edgeexit.errors import InferenceError
from tests.backends.dummy.batch import DummyBatch


class DummyBackend:
    """Implements the protocol `StageBackend`."""

    warnings = ()
    max_batch = 64

    def __init__(self, bundle, target, *, fallback):
        self._bundle = bundle
        self._evaluators = []

    @property
    def description(self):
        return f"onnx reference {onnx.__version__}"

    def begin(self, inputs, *, probabilities):
        if not self._evaluators:
            raise InferenceError("the backend is closed and accepts no samples")
        return DummyBatch(self._bundle.manifest, self._evaluators, inputs, probabilities=probabilities)

    def __enter__(self):
        for stage in self._bundle.manifest.stages:
            self._evaluators.append(ReferenceEvaluator(onnx.load(self._bundle.path / stage.file)))
        return self

    def __exit__(self, *_):
        self._evaluators.clear()
