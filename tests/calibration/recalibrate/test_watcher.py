"""The watcher: no change while the risk holds, a step back at an alarm, bolder policies when audits certify them."""

from datetime import timedelta

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
from edgeexit_calibration.store.cohorts import current_revision
from edgeexit_calibration.store.leases import LeaseLostError
from edgeexit_calibration.store.tables import PolicyRevisionRow
from sqlalchemy import update

from edgeexit.policies import decode_document, disagrees, exit_rates, simulate_exits
from edgeexit.policies.document import LatencyBound
from tests.calibration.recalibrate.watching import (
    GOAL,
    NOW,
    check_all,
    current_audits,
    event_kinds,
    ingest,
    new_watcher,
    newest_policy,
    revisions,
)
from tests.calibration.scenario import COHORT, RISK, audits_of, readouts_of


def test_a_policy_that_holds_its_risk_is_not_changed_while_nothing_is_cheaper(database, bundle, cohort):
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 2000, seed=11))
    check_all(watching)
    assert revisions(database, cohort) == [1]
    assert event_kinds(database, cohort) == ["registered"]
    measured = disagreement(database, cohort, revision=1)
    assert measured.low <= measured.observed <= measured.high < RISK + 0.03


def test_an_alarm_steps_back_and_boldness_returns_during_the_drift_and_after_it(database, bundle, cohort):
    shipped = bundle.policy().policy
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 500))
    before = audit_watermark(database, cohort)
    check_all(watching)
    ingest(database, *audits_of(bundle, 2500, trust=0.5, first_sequence=100, seed=8)[:3])
    check_all(watching)
    ingest(database, *current_audits(database, cohort, bundle, 2200, trust=0.5, first_sequence=150, seed=6))
    during = audit_watermark(database, cohort)
    check_all(watching)

    kinds = event_kinds(database, cohort)
    assert kinds[:3] == ["registered", "risk exceeded", "stepped back"]
    assert set(kinds[3:]) == {"bolder"}
    _, exceeded, stepped_back, *_ = events(database, cohort)
    assert exceeded.details["revision"] == 1
    assert before < exceeded.details["change_position"] <= exceeded.details["alarm_position"] < before + 300
    assert (stepped_back.details["revision"], stepped_back.details["cost"]) == (2, 1.0)  # full depth
    assert stepped_back.details["change_position"] == exceeded.details["change_position"]
    second, *_ = [policy for policy in policy_history(database, cohort) if policy.revision == 2]
    assert second.created_by == "calibrator"
    assert second.reason == f"stepped back: disagreement above 10 % since audit {exceeded.details['change_position']}"
    in_drift = newest_policy(database, cohort)
    drifted, normal = (readouts_of(20_000, trust=trust, seed=50) for trust in (0.5, 1.0))
    assert disagrees(in_drift, drifted).mean() <= RISK < disagrees(shipped, drifted).mean()
    assert exit_rates(simulate_exits(in_drift, drifted), 3)[-1] < 0.95
    assert cohorts(database)[0].condition is None

    ingest(database, *current_audits(database, cohort, bundle, 3000, first_sequence=200, seed=9))
    check_all(watching)
    kinds = event_kinds(database, cohort)
    assert (kinds.count("stepped back"), kinds[-1]) == (1, "bolder")
    last = policy_history(database, cohort)[-1]
    assert (
        last.reason == f"bolder: saves {_saved(database, cohort):.0f} %, certified on {last.certificate.samples} audits"
    )
    after_drift = newest_policy(database, cohort)
    assert disagrees(after_drift, normal).mean() <= RISK
    late = [exit_rates(simulate_exits(policy, normal), 3)[-1] for policy in (in_drift, after_drift)]
    assert late[1] < late[0] - 0.1

    assert disagreement(database, cohort, until=before).samples == 500
    drifting = disagreement(database, cohort, after=before, until=during, revision=1)
    assert (drifting.samples, drifting.low > RISK) == (300, True)
    assert audited_exit_mix(database, cohort, revision=1).samples == 800


def _saved(database, cohort):
    """Return the percentage of the cost that the last change saves."""
    details = events(database, cohort)[-1].details
    return 100 * (1 - details["cost"] / details["cost_before"])


def test_a_change_keeps_the_latency_bound(database, bundle):
    bound = LatencyBound(quantile=0.9, ms=20)
    cohort = register(database, bundle, cohort=COHORT, **GOAL, max_latency=bound).cohort
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 200, trust=0.5))
    check_all(watching)
    ingest(database, *current_audits(database, cohort, bundle, 600, trust=0.5, first_sequence=50, seed=8))
    check_all(watching)
    assert {"stepped back", "bolder"} <= set(event_kinds(database, cohort))
    with database.reading() as session:
        assert decode_document(current_revision(session, 1).document.encode()).max_latency == bound


def test_audits_of_every_revision_count_if_the_temperatures_are_equal(database, bundle, cohort):
    """Audits from before the registration do not count."""
    ingest(database, *audits_of(bundle, 1000, trust=0.3, revision=0))
    watching = new_watcher(database)
    check_all(watching)
    assert event_kinds(database, cohort) == ["registered"]
    unknown = audits_of(bundle, 500, trust=0.3, revision=7, first_sequence=50)
    ingest(database, *unknown)
    check_all(watching)
    assert event_kinds(database, cohort) == ["registered"]
    ingest(database, *audits_of(bundle, 500, trust=0.3, revision=0, first_sequence=100, seed=8))
    check_all(watching)
    assert event_kinds(database, cohort)[:3] == ["registered", "risk exceeded", "stepped back"]


@pytest.mark.parametrize("changed", [{"risk": 0.01}, {"delta": 0.01}])
def test_another_risk_or_delta_begins_anew_after_its_registration(database, bundle, cohort, changed):
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 1000, seed=11))
    check_all(watching)
    newest = audit_watermark(database, cohort)
    register(database, bundle, cohort=COHORT, **{**GOAL, **changed})
    check_all(watching)
    assert revisions(database, cohort) == [1]
    ingest(database, *audits_of(bundle, 600, trust=0.5, seed=12, first_sequence=100))
    check_all(watching)
    exceeded = events(database, cohort)[2]
    assert (exceeded.kind, exceeded.details["risk"]) == ("risk exceeded", {**GOAL, **changed}["risk"])
    assert exceeded.details["change_position"] > newest
    certificate = policy_history(database, cohort)[-1].certificate
    assert (certificate.risk, certificate.delta) == ({**GOAL, **changed}["risk"], {**GOAL, **changed}["delta"])


def test_a_cohort_gets_a_bolder_policy_as_often_as_a_day_allows_and_steps_back_at_once(database, bundle, cohort):
    def check(time, count, *, trust, seed):
        for part in range(0, count, 250):
            options = {"trust": trust, "first_sequence": 10_000 * seed + part, "seed": 10_000 * seed + part}
            ingest(database, *current_audits(database, cohort, bundle, 250, **options))
            check_all(watching, now=time)
        return event_kinds(database, cohort)

    watching = new_watcher(database, max_changes_per_day=2)
    check_all(watching)
    kinds = check(NOW, 2000, trust=0.5, seed=8)
    assert kinds == ["registered", "risk exceeded", "stepped back", "bolder", "bolder"]
    kinds = check(NOW + timedelta(hours=23), 2000, trust=1.0, seed=9)
    assert kinds.count("bolder") == 2
    kinds = check(NOW + timedelta(hours=25), 500, trust=1.0, seed=10)
    assert kinds.count("bolder") == 4
    kinds = check(NOW + timedelta(hours=26), 1000, trust=0.1, seed=11)
    assert kinds[-1] == "stepped back"


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
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *shorter)
    check_all(watching)
    assert event_kinds(database, cohort) == ["registered"]
    assert disagreement(database, cohort).samples == 0
    assert audited_exit_mix(database, cohort).counts == (0, 0, 0)


def test_a_cohort_that_fails_does_not_stop_the_check_of_the_others(database, bundle, cohort, caplog):
    healthy = register(database, bundle, cohort="healthy", **GOAL).cohort
    with database.writing() as session:
        session.execute(update(PolicyRevisionRow).where(PolicyRevisionRow.cohort_id == 1).values(document="{}"))
    watching = new_watcher(database)
    check_all(watching)
    audits = [msgspec.structs.replace(audit, cohort="healthy") for audit in audits_of(bundle, 500, trust=0.3)]
    ingest(database, *audits)
    check_all(watching)
    assert event_kinds(database, healthy)[:3] == ["registered", "risk exceeded", "stepped back"]
    assert event_kinds(database, cohort) == ["registered"]
    [line] = [record.getMessage() for record in caplog.records if "the check failed" in record.getMessage()]
    assert str(cohort) in line
    assert "\n" not in line


def test_a_lost_lease_ends_the_check_of_all_cohorts(database, bundle, cohort, caplog):
    def lost(_connection):
        raise LeaseLostError("another process leads")

    new_watcher(database).check(now=NOW)
    ingest(database, *audits_of(bundle, 500, trust=0.3))
    with pytest.raises(LeaseLostError):
        new_watcher(database.fenced(lost)).check(now=NOW)
    assert event_kinds(database, cohort) == ["registered"]
    assert "the check failed" not in caplog.text


def test_cohorts_of_another_fleet_are_ignored(database, bundle, cohort):
    watching = new_watcher(database, fleet="elsewhere")
    check_all(watching)
    ingest(database, *audits_of(bundle, 500, trust=0.3))
    check_all(watching)
    assert event_kinds(database, cohort) == ["registered"]
