"""Buffers: a stage that is bound once runs again with the same results, on every version of ONNX Runtime."""

import numpy as np

from edgeexit.backends.onnxruntime import backend
from edgeexit.backends.onnxruntime.sessions import StageSession
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner
from tests.bundles import INPUT, make_bundle, make_samples

FULL_DEPTH = Confidence(temperatures=(1.0,) * 3, thresholds=(None,) * 2)


class PublicSession:
    """A session with the documented methods only: another version may have no private attribute of this name."""

    runs = 0

    def __init__(self, *arguments, **options):
        session = StageSession(*arguments, **options)
        self.get_providers, self.io_binding, self._session = session.get_providers, session.io_binding, session

    def run_with_iobinding(self, binding):
        PublicSession.runs += 1
        self._session.run_with_iobinding(binding)


def test_stages_run_without_the_private_attributes_of_onnx_runtime(tmp_path, monkeypatch):
    bundle, samples = make_bundle(tmp_path / "bundle"), make_samples(6)[INPUT]
    batches = [samples[:1], samples[1:2], samples, samples[::-1]]  # each size twice: the second run uses the binding
    with Runner(bundle) as runner:
        expected = [runner.infer({INPUT: batch}, policy=FULL_DEPTH) for batch in batches]
    monkeypatch.setattr(backend, "StageSession", PublicSession)
    with Runner(bundle) as runner:
        found = [runner.infer({INPUT: batch}, policy=FULL_DEPTH) for batch in batches]
    assert PublicSession.runs == len(batches) * FULL_DEPTH.exits
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.outputs, other.outputs)
        np.testing.assert_array_equal(one.readouts, other.readouts)
