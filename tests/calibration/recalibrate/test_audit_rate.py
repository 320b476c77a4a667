"""How many samples devices audit: more after an alarm, until further audits change little, and only if all know how."""

import logging
from datetime import timedelta

import pytest
from edgeexit_calibration import events, policy_history, register
from edgeexit_calibration.recalibrate.audit_rate import useful_audits
from edgeexit_calibration.recalibrate.guarantee_rules import GuaranteeRules
from edgeexit_calibration.recalibrate.renumbering import renumber
from edgeexit_calibration.store.cohorts import current_revision, find_cohort, locked_cohort

from edgeexit.limited_log import LimitedLog
from edgeexit.policies import AuditRule, decode_document
from edgeexit.wire import DeviceAddress
from tests.calibration.recalibrate.watching import (
    GOAL,
    NOW,
    check_all,
    current_audits,
    event_kinds,
    ingest,
    new_watcher,
)
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK, audits_of, state_of

USEFUL = useful_audits(GuaranteeRules(risk=RISK, delta=DELTA, costs=(1.0, 2.0, 3.0)))


def run_devices(database, bundle, *fractions, now=NOW):
    """Store the states of devices with these audit fractions of their own; None: an older agent."""
    for number, fraction in enumerate(fractions):
        device = DeviceAddress(FLEET, "s0", f"camera-{number}")
        ingest(database, state_of(bundle.digest, audit_fraction=fraction), device=device, now=now)


def step_back(database, bundle, watching, *, audits=200):
    """Let a drift raise an alarm."""
    check_all(watching)
    ingest(database, *audits_of(bundle, audits, trust=0.3, seed=8))
    check_all(watching)


def rules_of_revisions(database, cohort):
    """Return the raised fraction of each revision after the first; None: devices audit their own fractions."""
    views = policy_history(database, cohort)[1:]
    return [None if view.audit is None else view.audit.fraction for view in views]


def test_so_many_audits_are_useful_as_certify_a_policy_of_three_quarters_of_the_risk():
    assert pytest.approx(1300, rel=0.01) == USEFUL  # the table in docs/policies.md


@pytest.mark.parametrize(
    ("fractions", "option", "expected"),
    [
        ((0.02, 0.02, 0.04), None, 0.1),
        ((0.5,), None, 1.0),
        ((0.0, 0.03), None, 0.15),
        ((0.0, 0.0), None, 0.0),
        ((0.02,), 0.3, 0.3),
        ((0.02,), 0.0, None),
        ((0.02, None), None, None),
        ((0.02, None), 0.3, None),
        ((), None, None),
    ],
)
def test_the_revision_after_an_alarm_raises_the_fraction_if_every_agent_knows_audit_rules(
    database, bundle, cohort, fractions, option, expected
):
    run_devices(database, bundle, *fractions)
    step_back(database, bundle, new_watcher(database, audit_fraction_after_alarm=option))
    assert rules_of_revisions(database, cohort)[0] == (None if expected is None else pytest.approx(expected))
    [change] = [event for event in events(database, cohort) if event.details.get("kind") == "stepped back"]
    assert change.details.get("audit_fraction") == (None if expected is None else pytest.approx(expected))


def test_an_older_agent_that_was_not_seen_for_a_month_does_not_count(database, bundle, cohort):
    run_devices(database, bundle, None, now=NOW - timedelta(days=31))
    ingest(
        database, state_of(bundle.digest, audit_fraction=0.01), device=DeviceAddress(FLEET, "s0", "camera-new"), now=NOW
    )
    step_back(database, bundle, new_watcher(database))
    assert rules_of_revisions(database, cohort)[0] == pytest.approx(0.05)


def test_no_policy_raises_the_fraction_before_an_alarm(database, bundle, cohort):
    run_devices(database, bundle, 0.01)
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 1000, trust=4.0))
    check_all(watching)
    assert set(event_kinds(database, cohort)) == {"registered", "bolder"}
    assert set(rules_of_revisions(database, cohort)) == {None}


def test_bolder_policies_keep_the_raised_fraction_until_there_are_enough_audits(database, bundle, cohort):
    run_devices(database, bundle, 0.01)
    watching = new_watcher(database)
    step_back(database, bundle, watching)
    for part in range(30):
        options = {"trust": 0.8, "first_sequence": 100 + part, "seed": 9 + part}
        ingest(database, *current_audits(database, cohort, bundle, 100, **options))
        check_all(watching, now=NOW + timedelta(hours=part))
    changes = [event for event in events(database, cohort) if event.kind in {"refitted", "usual audits"}]
    raised = rules_of_revisions(database, cohort)
    assert {event.details["kind"] for event in changes if event.kind == "refitted"} == {"stepped back", "bolder"}
    lowered = raised.index(None)
    assert lowered >= 2, "the test needs a bolder policy before there are enough audits"
    assert raised == [pytest.approx(0.05)] * lowered + [None] * (len(raised) - lowered)


def test_without_a_bolder_policy_the_same_policy_follows_without_the_rule(database, bundle, cohort):
    run_devices(database, bundle, 0.01)
    watching = new_watcher(database, max_changes_per_day=0)
    step_back(database, bundle, watching)
    ingest(database, *current_audits(database, cohort, bundle, USEFUL - 300, trust=0.3, first_sequence=100, seed=9))
    check_all(watching)
    assert rules_of_revisions(database, cohort) == [pytest.approx(0.05)]
    ingest(database, *current_audits(database, cohort, bundle, 300, trust=0.3, first_sequence=200, seed=10))
    check_all(watching)
    assert rules_of_revisions(database, cohort) == [pytest.approx(0.05), None]
    [*_, stepped_back, usual] = policy_history(database, cohort)
    assert (usual.thresholds, usual.certificate) == (stepped_back.thresholds, stepped_back.certificate)
    assert usual.reason.startswith("usual audits again after ")
    assert event_kinds(database, cohort) == ["registered", "risk exceeded", "stepped back", "usual audits"]
    check_all(new_watcher(database))
    assert len(rules_of_revisions(database, cohort)) == 2, "the next process finds the state of the new revision"


def test_a_policy_with_another_number_keeps_its_rule(database, bundle, cohort):
    run_devices(database, bundle, 0.01)
    step_back(database, bundle, new_watcher(database))
    with database.writing() as session:
        cohort_id = find_cohort(session, cohort).id
        locked_cohort(session, cohort_id).highest_unknown_revision = 50
    renumber(database, cohort_id, cohort, repeats=LimitedLog(logging.getLogger(__name__)), now=NOW)
    with database.reading() as session:
        document = decode_document(current_revision(session, cohort_id).document.encode())
    assert (document.revision, document.audit) == (51, AuditRule(fraction=pytest.approx(0.05)))


def test_a_guarantee_that_begins_anew_takes_the_raised_fraction_back(database, bundle, cohort):
    run_devices(database, bundle, 0.01)
    watching = new_watcher(database)
    step_back(database, bundle, watching)
    register(database, bundle, cohort=COHORT, **GOAL, loss="regret")  # no device sends labels
    check_all(watching)
    assert rules_of_revisions(database, cohort) == [pytest.approx(0.05), None]
    check_all(watching)
    assert len(rules_of_revisions(database, cohort)) == 2
