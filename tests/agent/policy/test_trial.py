"""The trial of a policy: what counts, when it passes, and that a failing disk only delays it."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from edgeexit.agent.counters import Counters
from edgeexit.agent.policy.active_policy import PolicyOnTrial
from edgeexit.agent.policy.trial import PolicyTrial
from edgeexit.policies import Certificate, LatencyBound, PolicyDocument
from edgeexit.policies.confidence import Confidence

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(0.5,) * 2)
PROMISING = Certificate(
    method="m", samples=9, risk=0.1, delta=0.1, observed=0, upper_bound=0.1, exit_rates=(0.5, 0.3, 0.2)
)


class Batch(NamedTuple):
    """What the counters read of an inference."""

    exits: Any
    scores: Any
    latency_ms: Any


class Policies:
    """The policy on trial, as the selector presents it."""

    def __init__(self) -> None:
        self.on_trial: PolicyOnTrial | None = None
        self.in_crash_window = False
        self.reverted: list[str] = []
        self.passed = 0
        self.error: OSError | None = None

    def end_crash_window(self) -> None:
        pass

    def revert(self, reason: str) -> None:
        self.reverted.append(reason)
        self.on_trial = None

    def pass_trial(self) -> None:
        if self.error is not None:
            raise self.error
        self.passed += 1
        self.on_trial = None


class Bench:
    def __init__(self) -> None:
        self.policies = Policies()
        self.counters = Counters(3)
        self.now = 0.0
        selector: Any = self.policies
        self.trial = PolicyTrial(selector, self.counters, clock=lambda: self.now)

    def apply(self, revision: int = 5, **fields: Any) -> None:
        document = PolicyDocument(bundle="a" * 64, revision=revision, policy=POLICY, **fields)
        self.policies.on_trial = PolicyOnTrial("cohort", document, self.now)
        self.trial.check()

    def run(self, samples: int, *, exit_index: int, revision: int = 5, ms: float = 1.0) -> None:
        exits = np.full(samples, exit_index)
        batch: Any = Batch(exits, np.zeros((samples, 3), dtype=np.float32), np.full(samples, ms))
        self.counters.record(revision, POLICY, batch)
        self.trial.check()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_samples_of_an_earlier_policy_with_the_same_revision_do_not_count(bench: Bench) -> None:
    bench.run(500, exit_index=2)
    bench.apply(certificate=PROMISING)
    bench.run(99, exit_index=2)
    assert bench.policies.reverted == []
    bench.run(1, exit_index=2)
    assert len(bench.policies.reverted) == 1


def test_an_early_exit_before_the_policy_was_applied_does_not_let_it_pass(bench: Bench) -> None:
    bench.run(5, exit_index=0)
    bench.apply(certificate=PROMISING)
    bench.run(5, exit_index=2)
    assert bench.policies.passed == 0
    bench.run(1, exit_index=0)
    assert bench.policies.passed == 1


def test_a_policy_that_promises_nothing_passes_when_the_crash_window_is_over(bench: Bench) -> None:
    bench.policies.in_crash_window = True
    bench.apply()
    bench.trial.check()
    assert bench.policies.passed == 0
    bench.policies.in_crash_window = False
    bench.trial.check()
    assert bench.policies.passed == 1


def test_a_failing_disk_delays_the_end_of_a_trial(bench: Bench) -> None:
    bench.policies.error = OSError(28, "No space left on device")
    bench.apply()
    bench.trial.check()
    bench.policies.error = None
    bench.trial.check()
    assert bench.policies.passed == 0, "not again within a minute"
    bench.now += 60
    bench.trial.check()
    assert bench.policies.passed == 1


def test_slow_samples_fail_the_trial(bench: Bench) -> None:
    bench.apply(max_latency=LatencyBound(quantile=0.9, ms=10.0))
    bench.run(60, exit_index=0, ms=5.0)
    bench.run(60, exit_index=2, ms=50.0)
    assert bench.policies.reverted == ["60 of 120 samples took longer than 10 ms, and its document allows 0.1 of them"]
