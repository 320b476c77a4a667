"""The choice among certified points: the cheapest one, or the safest one within a budget, if it is clearly better."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration.recalibrate.audits import Audits
from edgeexit_calibration.recalibrate.chosen_point import choose_point
from edgeexit_calibration.recalibrate.guarantee import advance, begin
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from edgeexit_calibration.recalibrate.tracked_path import new_tracked_path

from edgeexit.policies.confidence import Confidence

COSTS = (1.0, 11.0)
"""With threshold t, 1 - t of the samples exit early: the mean cost is 1 + 10 t."""
NUMBER = 1000
POINTS = (None, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def policy_of(threshold):
    return Confidence(temperatures=(1.0, 1.0), thresholds=(threshold,))


def audits_of(wrong):
    """Return audits whose confidences at the first exit are 0.0005, 0.0015 and so on; `wrong` [N]: it disagrees."""
    readouts = np.zeros((NUMBER, 2, 4), np.float32)
    readouts[:, 0, 0] = wrong
    readouts[:, 0, 1] = (np.arange(NUMBER) + 0.5) / NUMBER
    readouts[:, 1, 1] = 1
    return Audits(np.arange(1, NUMBER + 1), np.zeros(NUMBER, np.int64), readouts)


BELOW = audits_of(np.arange(NUMBER) < NUMBER * 0.45)
"""Samples with a confidence below 0.45 are wrong, so points up to 0.5 have no loss."""


def path(certified, thresholds=POINTS):
    """Return a path whose points up to `certified` are certified."""
    new = new_tracked_path(tuple((one,) for one in thresholds), risk=0.1, delta=0.1, after=0, tolerated_devices=0)
    peaks = np.where(np.arange(len(thresholds)) <= certified, 100.0, 0.0)
    return msgspec.structs.replace(new, test=msgspec.structs.replace(new.test, log_peaks=peaks))


def choose(threshold, *paths, budget=None, audits=BELOW, **changes):
    """Return the threshold that replaces the one in force, or "none"."""
    options = {"costs": COSTS, "min_gain": 0.03, "loss": "disagreement", **changes}
    chosen = choose_point(policy_of(threshold), paths, audits, budget=budget, **options)
    return "none" if chosen is None else chosen.thresholds[0]


def test_without_a_budget_the_cheapest_certified_point_of_all_paths_is_chosen():
    assert choose(None, path(3), path(6), path(1)) == 0.4
    assert choose(0.41, path(6)) == "none", "it would save 2 % of 5.1"
    assert choose(0.42, path(6)) == 0.4
    assert choose(0.3, path(6)) == "none"


def test_within_a_budget_the_safest_point_is_chosen_and_of_several_without_loss_the_one_that_exits_latest():
    assert choose(None, path(9), budget=8.5) == 0.7
    assert choose(None, path(9), budget=8.2) == 0.6, "0.7 costs 8.0 ms, which is within 3 % of the budget"
    assert choose(None, path(9), budget=20) == "none", "full depth meets the budget"


def test_of_two_paths_the_point_with_the_lower_loss_is_chosen():
    early = audits_of((np.arange(NUMBER) >= 600) & (np.arange(NUMBER) < 620))
    for paths in ((0.61, 0.35), (0.35, 0.61)):
        assert choose(0.05, *(path(1, (None, one)) for one in paths), audits=early, budget=8) == 0.61


def test_a_policy_over_the_budget_becomes_as_cheap_as_certified_until_a_point_meets_it():
    assert choose(None, path(2), budget=5) == 0.8
    assert choose(0.8, path(2), budget=5) == "none", "nothing cheaper is certified"
    assert choose(0.8, path(5), budget=5) == 0.5
    assert choose(0.5, path(9), budget=5) == 0.3
    assert choose(0.41, path(6), budget=5) == "none", "0.4 costs exactly the budget, but saves only 2 %"


def test_a_policy_within_the_budget_becomes_safer_only_if_its_loss_is_clearly_higher():
    assert choose(0.1, path(9), budget=5) == 0.3, "35 % of the samples are wrong now, and then 15 %"
    assert choose(0.1, path(9), budget=7) == 0.5
    assert choose(0.1, path(9), budget=6.2) == 0.4, "0.5 costs 6.0 ms, give or take 0.16 ms"
    assert choose(0.5, path(9), budget=8) == "none", "neither 0.5 nor 0.6 has a loss"
    few = audits_of(np.isin(np.arange(NUMBER), [110, 120, 130]))
    assert choose(0.1, path(9), audits=few, budget=5) == "none", "three losses can be chance"
    more = audits_of(np.isin(np.arange(NUMBER), [110, 120, 130, 140, 150]))
    assert choose(0.1, path(9), audits=more, budget=5) == 0.3


def test_a_policy_between_the_margin_and_the_budget_stays():
    for threshold in (0.39, 0.395, 0.4):
        assert choose(threshold, path(9, (None, threshold, 0.38)), budget=5) == "none"
    assert choose(0.401, path(2, (None, 0.401, 0.38)), budget=5) == 0.38


@pytest.mark.parametrize("budget", [3.0, 4.1, 5.0, 6.3, 7.0])
def test_noise_does_not_make_the_policy_alternate(budget):
    random, changes, threshold = np.random.default_rng(0), [], None
    for _ in range(200):
        confidence = random.integers(0, NUMBER, NUMBER)
        audits = audits_of(random.random(NUMBER) < 0.2 * (1 - confidence / NUMBER))
        audits.readouts[:, 0, 1] = (confidence + 0.5) / NUMBER
        chosen = choose(threshold, path(9), budget=budget, audits=audits)
        if chosen != "none":
            threshold = chosen
            changes.append(chosen)
    assert 1 <= len(changes) <= 8, "in 200 times as many audits as are compared"


def test_points_under_which_too_few_samples_reach_the_final_exit_are_not_chosen_for_a_budget():
    assert choose(None, path(9), budget=4.5) == 0.3
    assert choose(None, path(9), budget=4.5, min_final_exits=0.35) == 0.4, "the cheapest one that is allowed"
    assert choose(0.1, path(9), budget=7, min_final_exits=0.35) == 0.5


def test_the_change_to_a_safer_policy_has_its_kind_and_its_certificate():
    rules = GuaranteeRules(risk=0.1, delta=0.1, costs=COSTS, budget=7.0)
    audits = audits_of(np.arange(NUMBER) < NUMBER * 0.45)
    order = np.random.default_rng(0).permutation(NUMBER)
    audits = audits._replace(readouts=audits.readouts[order])
    state, kinds = begin(policy_of(0.43), rules, last=0), []

    def history(first, last, limit):
        return audits.part(max(first - 1, last - limit, 0), last)

    while state.last < NUMBER:
        state, change = advance(state, audits, history, rules)
        if change is not None:
            kinds.append(change.kind)
            certificate = change.certificate
    assert kinds == ["safer"]
    assert certificate.upper_bound <= rules.risk
    assert 1 + 10 * state.policy.thresholds[0] <= 7
