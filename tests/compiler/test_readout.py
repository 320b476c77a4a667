"""The readout in the graph equals the same formulas in numpy."""

import numpy as np
import pytest

from tests.compiler.staged_run import run_stages


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_readout_is_softmax_top_two_and_entropy_at_the_temperature(residual, images, temperature):
    outputs = run_stages(residual, {"image": images}, temperature)
    for name in residual.manifest.exits:
        logits = outputs[name].astype(np.float64) / temperature
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        ranked = np.sort(p, axis=1)
        entropy = -(p * np.log(p)).sum(axis=1)
        expected = np.stack([p.argmax(axis=1), ranked[:, -1], ranked[:, -2], entropy], axis=1)
        assert outputs[f"{name}.readout"].dtype == np.float32
        np.testing.assert_allclose(outputs[f"{name}.readout"], expected, atol=1e-5)


def test_readout_stays_finite_when_one_class_is_certain(residual, images):
    readout = run_stages(residual, {"image": images * 1e6}, 0.01)["exit1.readout"]
    assert np.isfinite(readout).all()
    np.testing.assert_allclose(readout[:, 1:], np.tile([1, 0, 0], (len(images), 1)), atol=1e-6)
