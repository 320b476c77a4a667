"""Losses that need labels: which audits count, what an alarm is about, and the accuracy where labels are known."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration import events, explain, policy_history, register, set_device_aside, status
from edgeexit_calibration.ingest.sample_arrays import arrays_of
from edgeexit_calibration.recalibrate.audits import Audits, exit_losses
from edgeexit_calibration.store.tables import AuditedSampleRow
from sqlalchemy import func, select

from edgeexit.policies import exits_of, simulate
from edgeexit.wire import DeviceAddress
from tests.calibration.recalibrate.watching import (
    GOAL,
    NOW,
    check_all,
    current_audits,
    event_kinds,
    ingest,
    new_watcher,
    revisions,
)
from tests.calibration.scenario import COHORT, FLEET, audits_of, readouts_of, state_of

CLASSES = 4


def labelled(audits, *, every=1, final_is_right=True):
    """Return audits of which every n-th sample has a label: the final exit's class, or one that no exit predicts."""
    return [
        msgspec.structs.replace(
            audit,
            samples=tuple(
                sample
                if index % every
                else msgspec.structs.replace(sample, label=(sample.top1[-1] + (0 if final_is_right else 2)) % CLASSES)
                for index, sample in enumerate(audit.samples)
            ),
        )
        for audit in audits
    ]


def test_each_loss_is_that_of_its_definition():
    rng = np.random.default_rng(3)
    readouts = readouts_of(500, seed=2)
    predictions, labels = rng.integers(0, 3, (500, 3)), rng.integers(0, 3, 500)
    audits = Audits(np.arange(500), np.zeros(500, np.int64), readouts, labels=labels)
    found = {loss: exit_losses(predictions, audits, loss) for loss in ("disagreement", "regret", "error")}
    for n in range(500):
        final = int(readouts[n, -1, 0])
        for k in range(3):
            taken = final if k == 2 else int(predictions[n, k])
            assert found["disagreement"][n, k] == (taken != final)
            assert found["regret"][n, k] == (taken != labels[n] and final == labels[n])
            assert found["error"][n, k] == (taken != labels[n])
    assert (found["regret"] <= found["disagreement"]).all()
    assert 0 < found["regret"].mean() < found["disagreement"].mean()


def test_a_loss_that_needs_labels_is_not_computed_without_them():
    audits = Audits(np.arange(5), np.zeros(5, np.int64), readouts_of(5), labels=np.array([0, 1, -1, 2, 3]))
    with pytest.raises(ValueError, match="the loss 'regret' needs the label of each sample"):
        exit_losses(np.zeros((5, 3), np.int64), audits, "regret")


@pytest.mark.parametrize(("final_is_right", "kind"), [(True, "stepped back"), (False, None)])
def test_an_early_exit_counts_only_where_the_final_exit_is_right(database, bundle, final_is_right, kind):
    cohort = register(database, bundle, cohort=COHORT, **GOAL, loss="regret").cohort
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *labelled(audits_of(bundle, 1000, trust=0.5), final_is_right=final_is_right))
    check_all(watching)
    found = event_kinds(database, cohort)
    if kind is None:
        assert "risk exceeded" not in found
        return
    assert found[:3] == ["registered", "risk exceeded", kind]
    [_, second] = policy_history(database, cohort)
    assert second.reason.startswith("stepped back: regret above 10 % since audit ")
    assert second.certificate.loss == "disagreement", "agents that do not know the regret must step back, too"


def test_audits_without_a_label_do_not_count_and_the_few_with_one_do(database, bundle):
    cohort = register(database, bundle, cohort=COHORT, **GOAL, loss="regret").cohort
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 1000, trust=0.5))
    check_all(watching)
    assert revisions(database, cohort) == [1]
    assert explain(database, cohort, now=NOW).audits == 0
    [item] = [item for item in status(database, now=NOW).attention if item.kind == "no labels"]
    assert (item.subject, "none of 1,000 audits has a label" in item.text) == (str(cohort), True)
    ingest(database, *labelled(audits_of(bundle, 2000, trust=0.5, first_sequence=50, seed=9), every=10))
    check_all(watching)
    assert "stepped back" in event_kinds(database, cohort)
    assert "no labels" not in status(database, now=NOW).attention_counts
    alarm = next(event for event in events(database, cohort) if event.kind == "risk exceeded")
    with database.reading() as session:
        unlabelled = select(func.max(AuditedSampleRow.id)).where(AuditedSampleRow.id <= 1000)
        assert alarm.details["change_position"] > session.scalar(unlabelled)


def test_another_loss_begins_the_guarantee_anew(database, bundle):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *labelled(audits_of(bundle, 300)))
    check_all(watching)
    before = explain(database, cohort, now=NOW)
    assert (before.loss, before.audits) == ("disagreement", 300)
    again = register(database, bundle, cohort=COHORT, **GOAL, loss="regret")
    assert not again.is_new_revision
    check_all(watching)
    after = explain(database, cohort, now=NOW)
    assert (after.loss, after.audits, after.policy.revision) == ("regret", 0, 1)
    assert register(database, bundle, cohort=COHORT, **GOAL).loss == "regret"
    assert [event.details["loss"] for event in events(database, cohort)] == ["disagreement", "regret", "regret"]


def test_a_certificate_bounds_the_regret_but_one_of_the_regret_bounds_nothing_else(database, bundle):
    registered = register(database, bundle, cohort=COHORT, **GOAL, loss="regret")
    assert registered.certified_risk == GOAL["risk"]
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *labelled(audits_of(bundle, 1000, trust=0.5)))
    check_all(watching)
    ingest(database, *labelled(current_audits(database, registered.cohort, bundle, 1000, first_sequence=100, seed=9)))
    check_all(watching)
    assert event_kinds(database, registered.cohort)[-1] == "bolder"
    again = register(database, bundle, cohort=COHORT, **GOAL, loss="disagreement")
    assert again.certificate.loss == "regret"
    assert again.certified_risk is None


def test_the_accuracy_is_that_of_the_labelled_audits_of_the_policy_in_force(database, bundle):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    assert status(database, now=NOW).cohorts[0].accuracy.observed is None
    watching = new_watcher(database)
    check_all(watching)
    audits = labelled(audits_of(bundle, 600, seed=3), every=2)
    audits += labelled(audits_of(bundle, 200, seed=4, first_sequence=50), every=4, final_is_right=False)
    ingest(database, *audits)
    check_all(watching)
    policy = bundle.policy().policy
    readouts, labels = (
        np.concatenate([getattr(arrays_of(audit.samples), name) for audit in audits]) for name in ("readouts", "labels")
    )
    scores, predictions = simulate(policy, readouts)
    taken = predictions[np.arange(len(readouts)), exits_of(scores, policy.thresholds)]
    known = labels >= 0
    found = status(database, now=NOW).cohorts[0].accuracy
    assert found.samples == known.sum() == 350
    assert found.observed == pytest.approx((taken == labels)[known].mean())
    assert found.full_depth == pytest.approx(300 / 350)
    assert explain(database, cohort, now=NOW).accuracy == found


def test_explain_leaves_the_labels_of_devices_out_that_are_set_aside(database, bundle):
    cohort = register(database, bundle, cohort=COHORT, **GOAL).cohort
    check_all(new_watcher(database))
    addresses = [DeviceAddress(FLEET, "s0", f"camera-{number}") for number in (1, 2)]
    for address, count in zip(addresses, (300, 100), strict=True):
        ingest(database, state_of(bundle.digest), *labelled(audits_of(bundle, count)), device=address)
    assert explain(database, cohort, now=NOW).accuracy.samples == 400
    set_device_aside(database, "camera-2", user="ada", now=NOW)
    assert explain(database, cohort, now=NOW).accuracy.samples == 300
