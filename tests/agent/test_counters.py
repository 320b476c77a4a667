"""The counters agree with the inferences."""

import threading

import numpy as np
import pytest

from edgeexit.agent.counters import Counters
from edgeexit.bundle import Bundle
from edgeexit.latency import bin_of
from edgeexit.policies.beem import Beem
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Inference, Runner
from edgeexit.wire import SCORE_BINS
from tests.bundles import make_samples

CONFIDENCE = Confidence(temperatures=(1.0, 1.0, 1.0), thresholds=(0.5, 0.6))
BEEM = Beem(temperatures=(1.0, 1.0, 1.0), thresholds=(0.5, 0.9), weights=(1.0, 1.0, 1.0))


def make_result(exits: list[int], scores: list[list[float]], latency_ms: list[float]) -> Inference:
    count = len(exits)
    return Inference(
        predictions=np.zeros(count, dtype=np.int64),
        exits=np.array(exits),
        outputs=np.zeros((count, 4), dtype=np.float32),
        readouts=np.zeros((count, 4), dtype=np.float32),
        scores=np.array(scores, dtype=np.float32),
        latency_ms=np.array(latency_ms),
        stage_ms=(),
        decide_ms=(),
    )


@pytest.mark.parametrize("policy", [CONFIDENCE, BEEM])
def test_counts_equal_those_of_the_results(bundle: Bundle, policy: Confidence | Beem) -> None:
    counters = Counters(3)
    with Runner(bundle) as runner:
        results = [runner.infer(make_samples(20, seed=n), policy=policy) for n in range(5)]
    for result in results:
        counters.record(3, policy, result)
    (snapshot,) = counters.take_changed()
    exits = np.concatenate([result.exits for result in results])
    latency = np.concatenate([result.latency_ms for result in results])
    assert snapshot.revision == 3
    assert [exit_.exited for exit_ in snapshot.exits] == np.bincount(exits, minlength=3).tolist()
    assert [exit_.reached for exit_ in snapshot.exits] == [int((exits >= k).sum()) for k in range(3)]
    for k, exit_ in enumerate(snapshot.exits):
        assert sum(exit_.scores) == exit_.reached
        expected = np.bincount(bin_of(latency[exits == k]), minlength=len(exit_.latency))
        assert list(exit_.latency) == expected.tolist()


def test_scores_are_divided_by_the_score_limit_of_the_policy_before_they_are_counted_in_bins() -> None:
    nan = float("nan")
    result = make_result([0, 1, 2], [[0.31, nan, nan], [1.0, 2.9999, nan], [nan, 0.0, 3.0001]], [1.0, 1.0, 1.0])
    counters = Counters(3)
    counters.record(0, BEEM, result)  # the highest score is 3
    exits = counters.take_changed()[0].exits
    filled = [{n: count for n, count in enumerate(exit_.scores) if count} for exit_ in exits]
    assert filled == [{2: 1, 6: 1, 0: 1}, {SCORE_BINS - 1: 1, 0: 1}, {SCORE_BINS - 1: 1}]


def test_only_changed_revisions_are_returned_and_counts_are_cumulative() -> None:
    counters = Counters(3)
    one = make_result([0], [[0.9, np.nan, np.nan]], [1.0])
    counters.record(1, CONFIDENCE, one)
    counters.record(2, CONFIDENCE, one)
    assert [snapshot.revision for snapshot in counters.take_changed()] == [1, 2]
    counters.record(1, CONFIDENCE, one)
    counters.record_failure(1)
    (snapshot,) = counters.take_changed()
    assert (snapshot.revision, snapshot.exits[0].exited, snapshot.failed) == (1, 2, 1)
    assert counters.take_changed() == []
    assert [snapshot.revision for snapshot in counters.take_changed(always=2)] == [2]


def test_no_counts_are_lost_with_several_threads() -> None:
    counters = Counters(3)
    one = make_result([0, 2], [[0.9, np.nan, np.nan], [0.1, 0.1, 0.1]], [1.0, 1.0])

    def count() -> None:
        for _ in range(500):
            counters.record(0, CONFIDENCE, one)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exits = counters.take_changed()[0].exits
    assert [exit_.exited for exit_ in exits] == [2000, 0, 2000]
    assert sum(exits[0].scores) == 4000
