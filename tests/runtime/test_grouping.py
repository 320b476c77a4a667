"""Requests that run as one batch get the results that they get alone."""

import numpy as np
import pytest

from edgeexit.errors import DataError, InferenceError
from edgeexit.runtime import Inference, Runner, full_model_policy
from edgeexit.runtime.grouping import infer_together
from tests.bundles import INPUT, companions_of, make_bundle, make_samples

SAMPLES = make_samples(6)
ROWS = SAMPLES[INPUT]
POLICY = full_model_policy(3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "companions", companions=True)


@pytest.fixture
def runner(bundle):
    with Runner(bundle, not_finite="refuse") as opened:
        yield opened


def test_each_request_gets_its_own_rows(runner, bundle):
    results = infer_together(runner, [{INPUT: ROWS[:1]}, {INPUT: ROWS[1:4]}, {INPUT: ROWS[4:]}], policy=POLICY)
    expected = runner.infer(SAMPLES, policy=POLICY)
    corners = companions_of(bundle, SAMPLES)[2]["corners"]
    start = 0
    for result, size in zip(results, (1, 3, 2), strict=True):
        assert isinstance(result, Inference)
        rows = slice(start, start + size)
        for name in ("predictions", "exits", "outputs", "readouts", "scores"):
            np.testing.assert_array_equal(getattr(result, name), getattr(expected, name)[rows])
        np.testing.assert_allclose(result.companions["corners"], corners[rows], atol=1e-5)
        assert result.latency_ms.shape == (size,)
        start += size


def test_a_request_that_does_not_fit_fails_alone(runner):
    wrong = [{INPUT: ROWS[:, :5]}, {}, {INPUT: np.full((1, 8), np.nan, dtype=np.float32)}]
    results = infer_together(runner, [{INPUT: ROWS[:1]}, *wrong, {INPUT: ROWS[1:2]}], policy=POLICY)
    assert [type(result) for result in results] == [Inference, DataError, DataError, DataError, Inference]
    (alone,) = infer_together(runner, wrong[:1], policy=POLICY)
    assert isinstance(alone, DataError)


def test_a_failure_of_the_runtime_reaches_every_request_of_the_batch(runner, monkeypatch):
    def fail(*_args, **_options):
        raise InferenceError("out of memory")

    monkeypatch.setattr(runner._backend, "begin", fail)
    results = infer_together(runner, [{INPUT: ROWS[:1]}, {INPUT: ROWS[1:2]}], policy=POLICY)
    assert [str(result) for result in results] == ["out of memory"] * 2
