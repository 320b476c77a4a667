"""The candidates of all kinds."""

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import FITTING_KINDS, Budget, MapLosses, fit_policy
from edgeexit.fitting.kinds import make_candidates
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.replay import replay
from edgeexit.fitting.temperature import base_temperatures, fit_temperatures
from edgeexit.policies import exits_of
from edgeexit.policies import registry as policy_registry
from tests.fitting.new_kind import Scaled
from tests.fitting.only_candidate import PLAIN, only_candidate
from tests.fitting.populations import population

TEMPERED = CandidateOptions(budget=2.0)


KINDS_WITHOUT_BUDGET = [name for name, kind in FITTING_KINDS.items() if not kind.learns_for_budget]


@pytest.mark.parametrize("kind", KINDS_WITHOUT_BUDGET)
def test_there_is_a_candidate_with_fitted_temperatures_if_the_kind_depends_on_them(kind):
    dataset = population(500, seed=1, sharpness=6.0)
    candidates = make_candidates(kind, dataset, TEMPERED)
    seen = [candidate.temperatures for candidate in candidates]
    if "temperatures" in FITTING_KINDS[kind].learns:
        assert seen == [fit_temperatures(dataset), base_temperatures(dataset)]
    else:
        assert seen == [base_temperatures(dataset)]
    assert all(candidate.kind == kind for candidate in candidates)
    assert all(candidate.thresholds == (None,) * 3 for candidate in candidates)


def test_an_unknown_kind_is_refused():
    with pytest.raises(FittingError, match="policy kind 'psychic' is unknown"):
        make_candidates("psychic", population(5, seed=0), PLAIN)


def test_a_policy_kind_without_a_fitting_kind_is_refused_with_advice(monkeypatch):
    monkeypatch.setitem(policy_registry._classes, "scaled", Scaled)
    with pytest.raises(FittingError, match="'scaled' has no fitting kind; call register_fitting_kind"):
        make_candidates("scaled", population(5, seed=0), PLAIN)


@pytest.mark.parametrize("kind", KINDS_WITHOUT_BUDGET)
@pytest.mark.parametrize("samples", [1, 3, 40])
def test_few_samples_give_finite_scores_within_the_limits(kind, samples):
    dataset = population(samples, seed=4)
    for candidate in make_candidates(kind, dataset, TEMPERED):
        scores, _ = replay(candidate, dataset)
        assert np.isfinite(scores).all()
        assert (scores <= np.array(candidate.score_limits) + 1e-5).all()


@pytest.mark.parametrize("kind", KINDS_WITHOUT_BUDGET)
def test_segmentation_is_fitted_on_fractions_of_pixels(kind):
    """Losses are fractions between 0 and 1; confident samples have low losses, the others high ones."""
    random = np.random.default_rng(0)
    dataset = population(400, seed=1)
    lost = np.where(dataset.readouts[:, :, 1] > 0.7, 0.05, 0.6) * random.uniform(0.5, 1.5, (400, 4))
    lost[:, -1] = 0
    losses = MapLosses(
        disagreement=lost.astype(np.float32),
        probabilities=np.stack([dataset.exit_probabilities(k) for k in range(4)], axis=1),
    )
    maps = msgspec.structs.replace(dataset, labels=None, logits=None, maps=losses)
    fit = fit_policy(kind, maps, Budget(cost=2.5))
    assert fit.expected.mean_cost <= 2.5
    assert fit.policy.temperatures == dataset.temperatures
    if kind in {"confidence", "pcee", "cats"}:
        # At the same cost, half of the samples could exit at exit 1 and half at exit 2.
        random_exits = lost.mean(axis=0)[1:3].mean()
        assert fit.expected.mean_loss < 0.6 * random_exits


@pytest.mark.parametrize("kind", KINDS_WITHOUT_BUDGET)
def test_the_same_dataset_gives_the_same_candidates(kind):
    assert make_candidates(kind, population(200, seed=1), TEMPERED) == make_candidates(
        kind, population(200, seed=1), TEMPERED
    )


def test_labels_change_only_what_is_learned_from_them():
    """CATs learn agreement with the final exit, without labels; BEEM learns accuracies."""
    labelled, blank = population(300, seed=1), population(300, seed=1, labels=False)
    assert only_candidate("cats", labelled) == only_candidate("cats", blank)
    assert only_candidate("beem", labelled) != only_candidate("beem", blank)


def test_candidates_are_the_full_model():
    dataset = population(100, seed=1)
    for kind in KINDS_WITHOUT_BUDGET:
        candidate = only_candidate(kind, dataset)
        scores, predictions = replay(candidate, dataset)
        assert (exits_of(scores, candidate.thresholds) == 3).all()
        assert (predictions[:, -1] == dataset.readouts[:, -1, 0]).all()
