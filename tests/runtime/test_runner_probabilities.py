"""Readouts with the probabilities of all classes, for policies that read them."""

import numpy as np
import pytest

from edgeexit.policies import Policy, simulate_exits
from edgeexit.policies.readout import COLUMNS
from edgeexit.runtime import Runner
from tests.bundles import make_bundle, make_samples

EXITS, CLASSES = 3, 4


class LastClass(Policy, frozen=True, kw_only=True, tag="last-class"):
    """Exits if the last class is probable, which the four columns of a readout do not contain."""

    reads_probabilities = True

    def score(self, exit_index, readout, state):
        assert readout.shape[1] == len(COLUMNS) + CLASSES
        return readout[:, -1], state


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with Runner(make_bundle(tmp_path_factory.mktemp("made") / "bundle", exits=EXITS, classes=CLASSES)) as opened:
        yield opened


def test_probabilities_follow_the_four_columns_and_depend_on_the_temperature(runner):
    every = runner.infer_every_exit(make_samples(6), temperatures=(1.0, 2.0, 4.0), probabilities=True)
    for k, (name, temperature) in enumerate(zip(every.outputs, (1.0, 2.0, 4.0), strict=True)):
        exponents = np.exp(every.outputs[name] / temperature)
        np.testing.assert_allclose(
            every.readouts[:, k, len(COLUMNS) :], exponents / exponents.sum(axis=1, keepdims=True), atol=1e-6
        )


def test_a_policy_decides_on_the_probabilities_of_each_sample(runner):
    samples = make_samples(40)
    every = runner.infer_every_exit(samples, probabilities=True)
    continuing = every.readouts[every.readouts[:, 0, -1] < 0.3]
    policy = LastClass(temperatures=(1.0,) * EXITS, thresholds=(0.3, float(np.median(continuing[:, 1, -1]))))
    result = runner.infer(samples, policy=policy)
    np.testing.assert_array_equal(result.exits, simulate_exits(policy, every.readouts))
    assert len(set(result.exits)) == EXITS
    assert result.readouts.shape == (40, len(COLUMNS))
