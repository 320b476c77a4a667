"""The verdict on a policy on trial: exits that never fire, and latencies above the bound of its document."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.agent.policy.guard import TrialCounts, failure, is_settled
from edgeexit.latency import BIN_COUNT, bin_edge_ms, bin_of
from edgeexit.policies import Certificate, LatencyBound, PolicyDocument
from edgeexit.policies.confidence import Confidence


def document(exit_rates: Sequence[float] | None = None, *, quantile: float = 0.0, ms: float = 20.0) -> PolicyDocument:
    fields: dict[str, Any] = {}
    if exit_rates is not None:
        fields["certificate"] = Certificate(
            method="m", samples=9, risk=0.1, delta=0.1, observed=0, upper_bound=0.1, exit_rates=tuple(exit_rates)
        )
    if quantile:
        fields["max_latency"] = LatencyBound(quantile=quantile, ms=ms)
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.5,) * 2)
    return PolicyDocument(bundle="a" * 64, revision=1, policy=policy, **fields)


def counts(early: int = 0, final: int = 0, latencies_ms: Sequence[float] = ()) -> TrialCounts:
    bins = bin_of(np.asarray(latencies_ms, dtype=np.float64)) if latencies_ms else []
    return TrialCounts((early, 0, final), [int(np.sum(np.asarray(bins) == index)) for index in range(BIN_COUNT)])


@pytest.mark.parametrize(
    ("rates", "needed"),
    [((0.5, 0.3, 0.2), 100), ((0.05, 0.05, 0.9), 132), ((0.01, 0.0, 0.99), 1375), ((1.0, 0, 0), 100)],
)
def test_a_policy_under_which_no_exit_fires_fails_once_that_cannot_be_chance(
    rates: tuple[float, ...], needed: int
) -> None:
    promised = sum(rates[:-1])
    assert needed == 100 or (1 - promised) ** needed < 1e-6 <= (1 - promised) ** (needed - 1)
    assert failure(document(rates), counts(final=needed - 1)) is None
    reason = failure(document(rates), counts(final=needed))
    assert reason is not None
    assert f"none of {needed:,} samples exited early" in reason
    assert failure(document(rates), counts(early=1, final=100_000)) is None, "a single early exit is enough"


@pytest.mark.parametrize("rates", [None, (0.0, 0.0, 1.0), (0.0,), ()])
def test_a_policy_that_promises_no_early_exit_does_not_fail_for_the_lack_of_one(rates: Sequence[float] | None) -> None:
    assert failure(document(rates), counts(final=10**9)) is None
    assert is_settled(document(rates), counts())


def test_a_policy_is_settled_when_an_exit_has_fired_and_enough_samples_kept_the_bound() -> None:
    assert not is_settled(document((0.5, 0.3, 0.2)), counts(final=5))
    assert is_settled(document((0.5, 0.3, 0.2)), counts(early=1))
    fast = counts(latencies_ms=[5.0] * 1374)
    assert not is_settled(document(quantile=0.99), fast)
    assert is_settled(document(quantile=0.99), counts(latencies_ms=[5.0] * 1375))
    doubtful = counts(latencies_ms=[5.0] * 2940 + [50.0] * 60)
    assert failure(document(quantile=0.99), doubtful) is None
    assert not is_settled(document(quantile=0.99), doubtful), "2 % where 1 % is allowed: more samples will decide"
    assert failure(document(quantile=0.99), counts(latencies_ms=[5.0] * 4900 + [50.0] * 100)) is not None


def test_a_policy_that_breaks_its_bound_of_the_latency_fails() -> None:
    bound = document(quantile=0.99, ms=20.0)
    assert failure(bound, counts(latencies_ms=[5.0] * 990 + [50.0] * 10)) is None, "as many as the bound allows"
    reason = failure(bound, counts(latencies_ms=[5.0] * 900 + [50.0] * 100))
    assert reason == "100 of 1,000 samples took longer than 20 ms, and its document allows 0.01 of them"
    assert failure(bound, counts(latencies_ms=[50.0] * 99)) is None, "a few samples are not enough"
    assert failure(bound, counts(latencies_ms=[50.0] * 100)) is not None


def test_a_sample_in_the_bin_of_the_bound_does_not_count_as_longer() -> None:
    edge = bin_edge_ms(20)
    inside = (edge + bin_edge_ms(21)) / 2
    slow = counts(latencies_ms=[inside] * 1000)
    assert failure(document(quantile=0.5, ms=edge * 1.01), slow) is None
    assert failure(document(quantile=0.5, ms=edge), slow) is not None
    assert failure(document(quantile=0.5, ms=1e12), counts(latencies_ms=[1e12] * 1000)) is None, (
        "the last bin has no end"
    )


@given(
    rates=st.lists(st.floats(0, 1), max_size=5),
    quantile=st.floats(0, 1, exclude_min=True, exclude_max=True),
    ms=st.floats(0, exclude_min=True, allow_infinity=False),
    exited=st.lists(st.integers(0, 2**62), min_size=2, max_size=5),
    latency=st.lists(st.integers(0, 2**50), min_size=BIN_COUNT, max_size=BIN_COUNT),
)
def test_every_document_and_all_counts_have_a_verdict(
    rates: list[float], quantile: float, ms: float, exited: list[int], latency: list[int]
) -> None:
    found = TrialCounts(exited, latency)
    one = document(rates, quantile=quantile, ms=ms)
    reason = failure(one, found)
    assert reason is None or len(reason) < 300
    assert is_settled(one, found) in {True, False}


def test_a_policy_that_keeps_its_promises_passes_with_high_probability() -> None:
    random = np.random.default_rng(7)
    one = document((0.05, 0.0, 0.95), quantile=0.9, ms=10.0)
    for _ in range(200):
        latencies = np.where(random.random(2000) < 0.1, 40.0, 3.0)
        early = int(random.binomial(2000, 0.05))
        assert failure(one, counts(early=early, final=2000 - early, latencies_ms=latencies.tolist())) is None
