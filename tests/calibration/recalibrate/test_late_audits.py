"""Audits of revisions from before an alarm certify nothing and raise no alarm, however late they arrive."""

import shutil

import msgspec
import pytest
from edgeexit_calibration import audit_watermark, explain, register
from edgeexit_calibration.publishing.signed_revisions import RevisionRecorder, SignedRevision
from edgeexit_calibration.store.tables import GuaranteeRow
from sqlalchemy import select

from edgeexit.bundle import Bundle
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
from tests.calibration.scenario import COHORT, audits_of


def _continued(database, watching, **_):
    return watching


def _stopped(database, watching, **_):
    watching.save(now=NOW)
    return new_watcher(database)


def _renumbered(database, watching, *, cohort, **_):
    """Our key has signed another revision, so the policy is stored under a higher number."""
    RevisionRecorder(database).record(SignedRevision(cohort, revisions(database, cohort)[-1] + 1, b"{}"))
    watching.check(now=NOW)
    return watching


def _damaged(database, watching, **_):
    watching.save(now=NOW)
    with database.writing() as session:
        session.scalars(select(GuaranteeRow)).one().state = b""
    restarted = new_watcher(database)
    check_all(restarted)
    return restarted


def _other_risk(database, watching, *, bundle, **_):
    register(database, bundle, cohort=COHORT, **{**GOAL, "risk": 0.2})
    check_all(watching)
    return watching


def _other_policy(database, watching, *, bundle, tmp_path, **_):
    copy = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy"))
    shipped = copy.policy()
    deployed = msgspec.structs.replace(shipped.policy, thresholds=(0.95, 0.9))
    copy.write_policy(msgspec.structs.replace(shipped, policy=deployed))
    register(database, copy, cohort=COHORT, **GOAL)
    check_all(watching)
    return watching


SINCE_THE_ALARM = pytest.mark.parametrize(
    "since", [_continued, _stopped, _renumbered, _damaged, _other_risk, _other_policy]
)


def stepped_back(database, bundle, cohort):
    """Return a watcher that has stepped back."""
    watching = new_watcher(database)
    check_all(watching)
    ingest(database, *audits_of(bundle, 200, trust=0.3))
    check_all(watching)
    assert event_kinds(database, cohort) == ["registered", "risk exceeded", "stepped back"]
    return watching


@SINCE_THE_ALARM
def test_late_audits_certify_nothing_and_the_following_ones_do(database, bundle, cohort, tmp_path, since):
    watching = stepped_back(database, bundle, cohort)
    watching = since(database, watching, cohort=cohort, bundle=bundle, tmp_path=tmp_path)
    check_all(watching)
    before, policies = explain(database, cohort, now=NOW), event_kinds(database, cohort)
    late = audits_of(bundle, 800, first_sequence=100, seed=8)  # of revision 1, from before the change
    ingest(database, *late)
    check_all(watching)
    assert event_kinds(database, cohort) == policies
    after = explain(database, cohort, now=NOW)
    assert (after.audits, after.next_path_in) == (before.audits, before.next_path_in)
    ingest(database, *current_audits(database, cohort, bundle, 800, first_sequence=200, seed=9))
    check_all(watching)
    assert event_kinds(database, cohort)[len(policies)] == "bolder"


@SINCE_THE_ALARM
def test_late_audits_raise_no_alarm_and_the_following_ones_do(database, bundle, cohort, tmp_path, since):
    watching = stepped_back(database, bundle, cohort)
    ingest(database, *current_audits(database, cohort, bundle, 800, first_sequence=100, seed=9))
    check_all(watching)
    watching = since(database, watching, cohort=cohort, bundle=bundle, tmp_path=tmp_path)
    check_all(watching)
    policies = event_kinds(database, cohort)
    assert "bolder" in policies
    ingest(database, *audits_of(bundle, 400, trust=0.1, first_sequence=200, seed=8))
    check_all(watching)
    assert event_kinds(database, cohort) == policies
    ingest(database, *current_audits(database, cohort, bundle, 400, trust=0.1, first_sequence=300, seed=8))
    check_all(watching)
    assert event_kinds(database, cohort)[len(policies) :][:2] == ["risk exceeded", "stepped back"]


def test_audits_of_the_step_back_count_although_its_policy_has_another_number_meanwhile(database, bundle, cohort):
    watching = stepped_back(database, bundle, cohort)
    audits = current_audits(database, cohort, bundle, 800, first_sequence=100, seed=9)
    watching = _renumbered(database, watching, cohort=cohort)
    assert {audit.revision for audit in audits} == {2}
    assert revisions(database, cohort) == [1, 2, 4]
    ingest(database, *audits)
    check_all(watching)
    assert event_kinds(database, cohort)[-1] == "bolder"


def test_the_audits_since_the_change_still_choose_paths_and_late_ones_do_not(database, bundle, cohort):
    watching = stepped_back(database, bundle, cohort)
    [watched] = watching._watched.values()
    with database.reading() as session:
        used = watched.reader.newest(session, first=watched.state.first, last=watched.state.last, limit=1000)
    assert len(used.ids) == watched.state.audits > 0
    ingest(database, *audits_of(bundle, 100, first_sequence=100, seed=8))
    ingest(database, *current_audits(database, cohort, bundle, 10, first_sequence=200, seed=9))
    check_all(watching)
    newest = audit_watermark(database, cohort)
    with database.reading() as session:
        after = watched.reader.newest(session, first=watched.state.first, last=newest, limit=1000)
    assert len(after.ids) == watched.state.audits == len(used.ids) + 10


def test_a_process_that_was_paused_uses_only_the_audits_that_the_newest_step_back_allows(database, bundle, cohort):
    paused = stepped_back(database, bundle, cohort)
    leading = new_watcher(database)
    for number, (count, trust) in enumerate(((600, 1.0), (300, 0.1)), 1):
        options = {"trust": trust, "first_sequence": 100 * number, "seed": 8 + number}
        ingest(database, *current_audits(database, cohort, bundle, count, **options))
        check_all(leading)
    policies = event_kinds(database, cohort)
    assert (policies.count("stepped back"), policies[-1]) == (2, "stepped back")  # the policy that the paused one knows
    check_all(paused)
    full_depth = newest_policy(database, cohort)
    ingest(database, *audits_of(bundle, 800, revision=2, policy=full_depth, first_sequence=500, seed=8))
    check_all(paused)
    assert event_kinds(database, cohort) == policies
