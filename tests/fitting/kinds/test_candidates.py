"""What kinds take from the data besides thresholds."""

import msgspec
import numpy as np
import pytest

from edgeexit.errors import FittingError
from edgeexit.fitting import FITTING_KINDS, Budget, FitOptions, MapLosses, ReadoutDataset, fit_policy
from edgeexit.fitting.kinds import make_candidates
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import read_out
from edgeexit.fitting.temperature import fit_temperatures
from edgeexit.policies import exits_of, simulate
from tests.fitting.populations import population

PLAIN = CandidateOptions(budget=2.0, temperatures=False)
TEMPERED = CandidateOptions(budget=2.0)
LEARNED_HERE = [name for name, kind in FITTING_KINDS.items() if not kind.learns_for_budget]


def only(kind, dataset, options=PLAIN):
    """Return the single candidate without temperatures."""
    (candidate,) = make_candidates(kind, dataset, options)
    return candidate


def readout(p1, p2, entropy=0.5, top1=0):
    return [top1, p1, p2, entropy]


def handmade(rows, *, labels=None, repeat=1):
    """Evidence of 4-column readouts [N][K][4], each sample `repeat` times."""
    readouts = np.repeat(np.array(rows, dtype=np.float32), repeat, axis=0)
    labels = None if labels is None else np.repeat(np.array(labels), repeat)
    exits = readouts.shape[1]
    return ReadoutDataset(
        readouts=readouts,
        costs=tuple(float(k + 1) for k in range(exits)),
        temperatures=(1.0,) * exits,
        labels=labels,
    )


def test_beem_weights_are_accuracies():
    weights = only("beem", population(500, seed=3, labels=False)).weights
    assert weights[-1] == 1.0
    assert list(weights) == sorted(weights)


def test_an_exit_that_is_never_right_still_has_a_weight():
    dataset = handmade([[readout(0.9, 0.1, top1=1), readout(0.9, 0.1)]] * 4, labels=[0, 0, 0, 0])
    assert only("beem", dataset).weights == (0.001, 1.0)


def test_beem_cost_weights_grow_by_depth_to_one():
    options = CandidateOptions(budget=2.0, temperatures=False, weights="cost")
    assert only("beem", population(50, seed=3), options).weights == (0.25, 0.5, 0.75, 1.0)


def test_beem_takes_weights_of_ones_own():
    options = CandidateOptions(budget=2.0, temperatures=False, weights=(1, 2, 3, 4))
    assert only("beem", population(50, seed=3), options).weights == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("depth", "weights 'depth' are unknown; give accuracy, cost, or 4 numbers above 0"),
        ((1.0, 2.0), r"weights \[1.0, 2.0\] must be 4 finite numbers above 0"),
        ((1.0, 2.0, 0.0, 1.0), "weights holds 0 where finite numbers above 0"),
        ((1.0, 2.0, float("nan"), 1.0), "weights holds nan where"),
        ((1.0, 2.0, 1e40, 1.0), r"weights holds 1e\+40 where"),
    ],
)
def test_beem_weights_that_make_no_sense_are_refused(weights, says):
    with pytest.raises(FittingError, match=says):
        fit_policy("beem", population(50, seed=3), Budget(cost=2.0), FitOptions(weights=weights))


@pytest.mark.parametrize("kind", LEARNED_HERE)
def test_temperatures_make_a_second_candidate_where_they_change_anything(kind):
    dataset = population(500, seed=1, sharpness=6.0)
    candidates = make_candidates(kind, dataset, TEMPERED)
    seen = [candidate.temperatures for candidate in candidates]
    if "temperatures" in FITTING_KINDS[kind].learns:
        assert seen == [fit_temperatures(dataset), dataset.temperatures]
    else:
        assert seen == [dataset.temperatures]
    assert all(candidate.kind == kind for candidate in candidates)
    assert all(candidate.thresholds == (None,) * 3 for candidate in candidates)


def test_ztw_makes_up_for_temperatures():
    """Readouts under other temperatures give the same ensembles: weights take them up."""
    dataset = population(2000, seed=1)
    hot = dataset.at((1.5, 0.8, 1.2, 1.0))
    mine, theirs = (simulate(only("ztw", e), e.readouts) for e in (dataset, hot))
    assert np.abs(mine.scores[:, :-1] - theirs.scores[:, :-1]).mean() < 0.005
    assert (mine.predictions != theirs.predictions).mean() < 0.005


def test_ztw_is_no_worse_than_single_exits():
    dataset = population(4000, seed=1)
    fresh = population(20_000, seed=2)
    ensemble = simulate(only("ztw", dataset), fresh.readouts)
    single = simulate(only("confidence", dataset), fresh.readouts)
    assert (
        fresh.losses(ensemble.predictions).mean(axis=0) <= fresh.losses(single.predictions).mean(axis=0) + 0.002
    ).all()
    assert fresh.losses(ensemble.predictions)[:, 2].mean() < fresh.losses(single.predictions)[:, 2].mean() - 0.01


def test_ztw_finds_what_its_source_weighed():
    """Labels drawn from softmax of (1.5 log p_0 + 0.5 log p_1) / 2 + b give these numbers back."""
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(40_000, 3, 3))
    logs = np.log(read_out(logits)[..., 4:])
    biases = np.array([0.5, 0.0, -0.5])
    p = read_out((1.5 * logs[:, 0] + 0.5 * logs[:, 1]) / 2 + biases)[:, 4:]
    labels = (random.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    dataset = ReadoutDataset(
        readouts=read_out(logits).astype(np.float32), costs=(1.0, 2.0, 3.0), temperatures=(1.0,) * 3, labels=labels
    )
    policy = only("ztw", dataset)
    assert policy.weights[1] == pytest.approx((1.5, 0.5), abs=0.06)
    assert np.array(policy.biases[1]) - np.mean(policy.biases[1]) == pytest.approx(biases, abs=0.04)


def test_pcee_says_the_accuracy_of_each_bin():
    """Of 100 samples at p = 0.71, 60 are right, of 50 at 0.91 all but 5."""
    sure, unsure = [readout(0.91, 0.05), readout(1.0, 0.0)], [readout(0.71, 0.2), readout(1.0, 0.0)]
    dataset = handmade([unsure] * 100 + [sure] * 50, labels=[0] * 60 + [1] * 40 + [0] * 45 + [1] * 5)
    scores = simulate(only("pcee", dataset), dataset.readouts).scores[:, 0]
    assert scores[0] == pytest.approx(0.6)
    assert scores[-1] == pytest.approx(0.9)


def test_a_bin_of_one_lucky_sample_says_no_more_than_its_neighbourhood():
    """One right answer at 0.99 beside 40 at 0.95, of which 30 are right: 31 of 41."""
    rows = [[readout(0.95, 0.0), readout(1.0, 0.0)]] * 40 + [[readout(0.99, 0.0), readout(1.0, 0.0)]]
    policy = only("pcee", handmade(rows, labels=[0] * 30 + [1] * 10 + [0]))
    assert policy.accuracies[0][-1] == pytest.approx(31 / 41, abs=1e-4)


def test_cats_estimates_the_probability_of_agreeing():
    """Agreement drawn from sigmoid(2 p1 + (p1 - p2) - H + 0.5): the estimate is that probability again."""
    random = np.random.default_rng(0)
    p1 = random.uniform(0.4, 1, 20_000)
    p2, entropy = (1 - p1) * random.uniform(0, 1, 20_000), random.uniform(0, 2, 20_000)
    chance = 1 / (1 + np.exp(-(2 * p1 + (p1 - p2) - entropy + 0.5)))
    first = np.stack([random.random(20_000) > chance, p1, p2, entropy], axis=1)
    dataset = handmade(np.stack([first, np.tile(readout(0.9, 0.1), (20_000, 1))], axis=1))
    scores = simulate(only("cats", dataset), dataset.readouts).scores[:, 0]
    assert np.abs(scores - chance).max() < 0.04


@pytest.mark.parametrize("first_says", [0, 1])
def test_an_exit_that_always_or_never_agrees_is_no_crash(first_says):
    rows = [[readout(p, 1 - p, 0.3, first_says), readout(0.9, 0.1)] for p in (0.6, 0.7, 0.8, 0.9)]
    dataset = handmade(rows, repeat=50)
    scores = simulate(only("cats", dataset), dataset.readouts).scores[:, 0]
    assert (scores > 0.95).all() if first_says == 0 else (scores < 0.05).all()


def test_entropy_without_probabilities_says_what_it_needs():
    dataset = handmade([[readout(0.9, 0.1), readout(0.9, 0.1)]] * 4)
    with pytest.raises(FittingError, match="needs the number of classes"):
        make_candidates("entropy", dataset, TEMPERED)


def test_an_unknown_kind_is_refused():
    with pytest.raises(FittingError, match="policy kind 'psychic' is unknown"):
        make_candidates("psychic", population(5, seed=0), PLAIN)


@pytest.mark.parametrize("kind", LEARNED_HERE)
@pytest.mark.parametrize("samples", [1, 3, 40])
def test_few_samples_give_sane_policies(kind, samples):
    dataset = population(samples, seed=4)
    for candidate in make_candidates(kind, dataset, TEMPERED):
        scores, _ = simulate(candidate, dataset.at(candidate.temperatures).readouts)
        assert np.isfinite(scores).all()
        assert (scores <= np.array(candidate.score_limits) + 1e-5).all()


@pytest.mark.parametrize("kind", LEARNED_HERE)
def test_maps_are_fitted_on_shares_of_pixels(kind):
    """Losses are shares between 0 and 1; the sure half of the maps loses little, the other much."""
    random = np.random.default_rng(0)
    dataset = population(400, seed=1)
    lost = np.where(dataset.readouts[:, :, 1] > 0.7, 0.05, 0.6) * random.uniform(0.5, 1.5, (400, 4))
    lost[:, -1] = 0
    maps = msgspec.structs.replace(dataset, labels=None, maps=MapLosses(disagreement=lost.astype(np.float32)))
    fit = fit_policy(kind, maps, Budget(cost=2.5))
    assert fit.expected.mean_cost <= 2.5
    assert fit.policy.temperatures == dataset.temperatures
    if kind in {"confidence", "pcee", "cats"}:
        blind = lost.mean(axis=0)[1:3].mean()  # answering half of the maps at exit 1 and half at exit 2 costs as much
        assert fit.expected.mean_loss < 0.6 * blind


@pytest.mark.parametrize("kind", LEARNED_HERE)
def test_the_same_evidence_gives_the_same_templates(kind):
    assert make_candidates(kind, population(200, seed=1), TEMPERED) == make_candidates(
        kind, population(200, seed=1), TEMPERED
    )


def test_labels_change_what_is_learned_from_them_and_nothing_else_does():
    """CATs ask for agreement with the final exit, so labels change nothing; BEEM's accuracies change."""
    labelled, blank = population(300, seed=1), population(300, seed=1, labels=False)
    assert only("cats", labelled) == only("cats", blank)
    assert only("beem", labelled) != only("beem", blank)


def test_thresholds_of_none_are_the_whole_model():
    dataset = population(100, seed=1)
    for kind in LEARNED_HERE:
        candidate = only(kind, dataset)
        scores, predictions = simulate(candidate, dataset.readouts)
        assert (exits_of(scores, candidate.thresholds) == 3).all()
        assert (predictions[:, -1] == dataset.readouts[:, -1, 0]).all()
