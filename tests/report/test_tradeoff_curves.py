"""Cross-fitted curves of loss over cost."""

import msgspec
import numpy as np
import pytest

from edgeexit.fitting import Budget, FitOptions, fit_policy
from edgeexit.fitting.frontier import frontier
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.replay import replay
from edgeexit.progress import Progress
from edgeexit.report.tradeoff_curves import cross_fit
from tests.fitting.populations import population


def test_exits_that_guess_have_a_curve_at_chance_level():
    # A fit that is scored on its own samples appears better than chance; a cross-fitted curve must not.
    random = np.random.default_rng(5)
    dataset = ReadoutDataset.from_logits(
        3 * random.normal(size=(300, 4, 10)), costs=(1.0, 2.0, 3.0, 4.0), labels=random.integers(0, 10, 300)
    )
    scores, predictions = replay(fit_policy("confidence", dataset, Budget(cost=3.0)).policy, dataset)
    optimistic = min(point.mean_loss for point in frontier(scores, dataset.losses(predictions), np.arange(1.0, 5.0)))
    curve = cross_fit(("confidence",), dataset).curves[0]
    assert optimistic < 0.88
    assert curve.losses.mean() == pytest.approx(0.9, abs=0.02)


class RecordedAdvances(Progress):
    """Records the amount and the total of each advance."""

    def __init__(self):
        self.advanced = []

    def advance(self, amount=1, total=None):
        self.advanced.append((amount, total))


def test_the_loss_falls_with_the_cost_down_to_the_final_exits_loss():
    dataset = population(1500, seed=1)
    progress = RecordedAdvances()
    curves = cross_fit(("confidence", "beem"), dataset, progress=progress)
    assert progress.advanced == [(1, 2), (1, 2)]
    assert curves.baseline == "confidence"
    final = float(dataset.losses(dataset.readouts[:, :, 0].astype(np.int64))[:, -1].mean())
    for curve in curves.curves:
        assert (np.diff(curve.costs) > 0).all()
        assert curve.costs[0] == pytest.approx(1.0)
        assert curve.losses[0] > curve.losses[-1] + 0.1
        assert curve.losses[-1] == pytest.approx(final, abs=0.02)


def test_the_gain_is_relative_to_the_baseline_at_the_same_cost():
    curves = cross_fit(("confidence", "beem"), population(1500, seed=1))
    baseline, beem = curves.curves
    assert not baseline.gain.any()
    assert not baseline.noise.any()
    middle = len(curves.budgets) // 2
    cost = float(curves.budgets[middle])
    assert beem.gain[middle] == pytest.approx(float(baseline.loss_at(cost) - beem.loss_at(cost)))
    assert 0 < beem.noise[middle] < 0.05


def test_the_same_seed_gives_the_same_curve():
    dataset = population(300, seed=2)
    first, second = (cross_fit(("confidence",), dataset, options=FitOptions(seed=3)).curves[0] for _ in range(2))
    assert (first.losses == second.losses).all()
    assert len(cross_fit(("confidence",), dataset, options=FitOptions(seed=4)).curves[0].losses) > 1


def test_a_kind_that_cannot_be_fitted_is_left_out_with_the_reason():
    dataset = population(300, seed=2)
    bare = msgspec.structs.replace(dataset, logits=None)
    curves = cross_fit(("confidence", "ztw"), bare, options=FitOptions(temperatures=False))
    assert [curve.kind for curve in curves.curves] == ["confidence"]
    assert "probabilities" in curves.left_out["ztw"]


def test_too_few_samples_give_no_curve():
    curves = cross_fit(("confidence",), population(10, seed=2))
    assert curves.curves == ()
    assert curves.baseline is None
    assert "10 samples" in curves.left_out["confidence"]


def test_a_large_dataset_is_subsampled(monkeypatch):
    monkeypatch.setattr("edgeexit.report.tradeoff_curves._MAX_SAMPLES", 100)
    dataset = population(300, seed=2)
    first, second = (cross_fit(("confidence",), dataset, options=FitOptions(seed=seed)) for seed in (0, 0))
    assert first.samples == 100
    assert (first.curves[0].losses == second.curves[0].losses).all()
    assert cross_fit(("confidence",), dataset.take(np.arange(90))).samples == 90
