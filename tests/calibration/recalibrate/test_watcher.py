"""The watcher: no event while the risk holds, one refit after an alarm, one event while a refit is postponed."""

from datetime import datetime, timezone

import msgspec
import pytest
from edgeexit_calibration import (
    audit_watermark,
    audited_exit_mix,
    cohorts,
    disagreement,
    events,
    policy_history,
    register,
)
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.recalibrate.watcher import Watcher
from edgeexit_calibration.store.cohorts import current_revision
from edgeexit_calibration.store.leases import LeaseLostError
from edgeexit_calibration.store.tables import PolicyRevisionRow
from sqlalchemy import update

from edgeexit.policies import decode_document, disagrees
from edgeexit.policies.document import LatencyBound
from tests.calibration.scenario import COHORT, DELTA, DEVICE, FLEET, RISK, audits_of, readouts_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)


def ingest(database, audits):
    with database.writing() as session:
        store_uplinks(session, [Uplink(DEVICE, audit) for audit in audits], now=NOW)


def watcher(database, *, min_audits=None):
    return Watcher(database, fleet=FLEET, min_audits=min_audits, alpha=0.001)


@pytest.fixture
def cohort(database, bundle):
    return register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada").cohort


def event_kinds(database, cohort):
    return [event.kind for event in events(database, cohort)]


def test_a_policy_that_holds_its_risk_is_not_changed(database, bundle, cohort):
    ingest(database, audits_of(bundle, 2000, seed=11))
    watcher(database).check(now=NOW)
    assert [policy.revision for policy in policy_history(database, cohort)] == [1]
    assert event_kinds(database, cohort) == ["registered"]
    measured = disagreement(database, cohort, revision=1)
    assert measured.low <= measured.observed <= measured.high < RISK + 0.03


def test_an_exceeded_risk_leads_to_a_refit_that_holds_the_risk_and_to_a_new_detector(database, bundle, cohort):
    ingest(database, audits_of(bundle, 500))
    before = audit_watermark(database, cohort)
    ingest(database, audits_of(bundle, 800, trust=0.8, first_sequence=100, seed=8))
    during = audit_watermark(database, cohort)
    watching = watcher(database)
    watching.check(now=NOW)
    _, second = policy_history(database, cohort)
    assert (second.revision, second.created_by) == (2, "calibrator")
    assert second.certificate.upper_bound <= RISK
    drifted = readouts_of(20_000, trust=0.8, seed=50)
    policies = [bundle.policy().policy, type(bundle.policy().policy)(
        temperatures=second.temperatures, thresholds=second.thresholds
    )]  # fmt: skip
    old, new = (disagrees(policy, drifted).mean() for policy in policies)
    assert new <= RISK < old
    assert event_kinds(database, cohort) == ["registered", "risk exceeded", "refitted"]

    ingest(database, audits_of(bundle, 2000, policy=policies[1], trust=0.8, revision=2, first_sequence=200, seed=9))
    for _ in range(3):
        watching.check(now=NOW)
    watcher(database).check(now=NOW)  # after a restart too
    assert [policy.revision for policy in policy_history(database, cohort)] == [1, 2]
    assert cohorts(database)[0].condition is None

    stable, drifting, refitted = (
        disagreement(database, cohort, until=before),
        disagreement(database, cohort, after=before, until=during),
        disagreement(database, cohort, after=during),
    )
    assert (stable.samples, drifting.samples, refitted.samples) == (500, 800, 2000)
    assert drifting.low > RISK > refitted.observed
    assert disagreement(database, cohort, revision=2) == refitted
    mixes = [audited_exit_mix(database, cohort, revision=revision).rates for revision in (1, 2)]
    assert mixes[1][-1] > mixes[0][-1]
    assert sum(mixes[1]) == pytest.approx(1)


def test_a_refit_keeps_the_latency_bound(database, bundle):
    bound = LatencyBound(quantile=0.9, ms=20)
    cohort = register(
        database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada", max_latency=bound
    ).cohort
    ingest(database, audits_of(bundle, 800, trust=0.8))
    watcher(database).check(now=NOW)
    assert event_kinds(database, cohort)[-1] == "refitted"
    with database.reading() as session:
        assert decode_document(current_revision(session, 1).document.encode()).max_latency == bound


def test_a_refit_waits_for_audits_with_one_event_and_then_runs(database, bundle, cohort):
    ingest(database, audits_of(bundle, 300, trust=0.5))
    watching = watcher(database, min_audits=600)
    for _ in range(3):
        watching.check(now=NOW)
    watcher(database, min_audits=600).check(now=NOW)  # a restart does not write the event again
    ingest(database, audits_of(bundle, 100, trust=0.5, first_sequence=50, seed=8))
    watching.check(now=NOW)
    assert event_kinds(database, cohort) == ["registered", "risk exceeded", "refit postponed"]
    assert "but 600 are needed" in events(database, cohort)[-1].details["reason"]
    assert cohorts(database)[0].condition == "risk exceeded; too few audits"
    ingest(database, audits_of(bundle, 400, trust=0.5, first_sequence=100, seed=9))
    watching.check(now=NOW)
    assert event_kinds(database, cohort)[-1] == "refitted"
    assert policy_history(database, cohort)[-1].certificate.samples >= 300


def test_a_refit_uses_audits_of_older_revisions_which_do_not_raise_alarms(database, bundle, cohort):
    ingest(database, audits_of(bundle, 1000, trust=0.3, revision=0))
    watching = watcher(database, min_audits=500)
    watching.check(now=NOW)
    assert event_kinds(database, cohort) == ["registered"]
    ingest(database, audits_of(bundle, 100, trust=0.3, revision=1, first_sequence=50))
    ingest(database, audits_of(bundle, 450, trust=0.3, revision=0, first_sequence=100, seed=8))
    watching.check(now=NOW)
    assert event_kinds(database, cohort) == ["registered", "risk exceeded", "refitted"]


def test_a_lower_risk_applies_after_its_registration(database, bundle, cohort):
    ingest(database, audits_of(bundle, 3000, seed=11))
    watching = watcher(database)
    watching.check(now=NOW)
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=0.01, delta=DELTA, user="ada")
    watching.check(now=NOW)
    history = policy_history(database, cohort)
    assert [policy.revision for policy in history] == [1, 2]
    assert history[-1].certificate.risk == 0.01


def test_audits_with_another_number_of_exits_are_ignored(database, bundle, cohort):
    shorter = [
        msgspec.structs.replace(
            audit,
            samples=tuple(
                msgspec.structs.replace(s, exit=0, top1=(1, 2), p1=s.p1[:2], p2=s.p2[:2], entropy=s.entropy[:2])
                for s in audit.samples
            ),
        )
        for audit in audits_of(bundle, 500)
    ]
    ingest(database, shorter)
    watcher(database).check(now=NOW)
    assert event_kinds(database, cohort) == ["registered"]
    assert disagreement(database, cohort).samples == 0
    assert audited_exit_mix(database, cohort).counts == (0, 0, 0)


def test_a_cohort_that_fails_does_not_stop_the_check_of_the_others(database, bundle, cohort, caplog):
    healthy = register(database, bundle, fleet=FLEET, cohort="healthy", risk=RISK, delta=DELTA, user="ada").cohort
    with database.writing() as session:
        session.execute(update(PolicyRevisionRow).where(PolicyRevisionRow.cohort_id == 1).values(document="{}"))
    ingest(database, [msgspec.structs.replace(audit, cohort="healthy") for audit in audits_of(bundle, 800, trust=0.5)])
    watcher(database).check(now=NOW)
    assert event_kinds(database, healthy) == ["registered", "risk exceeded", "refitted"]
    assert event_kinds(database, cohort) == ["registered"]
    [line] = [record.getMessage() for record in caplog.records if "the check failed" in record.getMessage()]
    assert str(cohort) in line
    assert "\n" not in line


def test_a_lost_lease_ends_the_check_of_all_cohorts(database, bundle, cohort, caplog):
    def lost(_connection):
        raise LeaseLostError("another process leads")

    ingest(database, audits_of(bundle, 800, trust=0.5))
    with pytest.raises(LeaseLostError):
        watcher(database.fenced(lost)).check(now=NOW)
    assert event_kinds(database, cohort) == ["registered"]
    assert "the check failed" not in caplog.text


def test_cohorts_of_another_fleet_are_ignored(database, bundle, cohort):
    ingest(database, audits_of(bundle, 800, trust=0.5))
    Watcher(database, fleet="elsewhere", min_audits=None, alpha=0.001).check(now=NOW)
    assert event_kinds(database, cohort) == ["registered"]
