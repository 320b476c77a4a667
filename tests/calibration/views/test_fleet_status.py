"""The status of fleets: numbers of devices, processes and shards, and what needs attention beyond single devices."""

from datetime import timedelta

import msgspec
import pytest
from edgeexit_calibration import NameLookupError, status
from edgeexit_calibration.store.cohorts import add_event, find_cohort
from edgeexit_calibration.store.leases import Leases, leader_lease, shard_lease
from edgeexit_calibration.store.process_tables import MaintenanceRow
from edgeexit_calibration.store.shards import add_shards
from edgeexit_calibration.store.size_limit import SizeReport
from edgeexit_calibration.store.tables import AuditTotalRow, CohortBucketRow, PolicyRevisionRow, RegistrationRow
from edgeexit_calibration.store.troubles import Trouble

from edgeexit.policies import PolicyDocument, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from tests.calibration.scenario import COHORT, FLEET
from tests.calibration.views.filled import ADDRESS, DIGEST, NOW, add_device, counts_at


def register(session, *, revision=2):
    """Register the cohort of `add_device` with policies up to a revision."""
    cohort = find_cohort(session, ADDRESS)
    session.add(
        RegistrationRow(
            cohort_id=cohort.id, model="m", exits=["a", "b", "c"], costs=[1.0, 2.0, 3.0], cost_unit="ms", risk=0.1,
            delta=0.1, bundle_policy="", registered_by="x", registered_at=NOW,
        )
    )  # fmt: skip
    for number in range(1, revision + 1):
        document = PolicyDocument(
            bundle=DIGEST, revision=number, policy=Confidence(temperatures=(1.0,) * 3, thresholds=(0.9,) * 2),
            scope=Scope(fleet=FLEET, cohort=COHORT),
        )  # fmt: skip
        content = encode_document(document).decode()
        session.add(
            PolicyRevisionRow(
                cohort_id=cohort.id, revision=number, document=content, reason="r", created_by="x", created_at=NOW
            )
        )
    return cohort


def kinds(database):
    return list(status(database, now=NOW).attention_counts)


def test_a_fleet_is_counted_by_cohort_revision_and_connection(database):
    with database.writing() as session:
        for name, revision, online in (("a", 1, True), ("b", 2, True), ("c", 2, False)):
            add_device(session, name, revision=revision, online=online)
        add_device(session, "d", cohort=None)
        add_device(session, "e", fleet="other", cohort="lab")
        cohort = register(session)
        for revision, writer, disagreeing in ((1, "", 50), (2, "s0", 3), (2, "s1", 2)):
            values = {"cohort_id": cohort.id, "revision": revision, "writer": writer}
            session.add(AuditTotalRow(samples=50, disagreeing=disagreeing, loss=disagreeing, **values))
            session.add(CohortBucketRow(width_s=900, begin_s=0, counts=counts_at((5, 3, 2)), **values))
    found = status(database, now=NOW)
    assert [(fleet.fleet, fleet.devices, fleet.online, fleet.up_to_date) for fleet in found.fleets] == [
        ("other", 1, 1, 0),
        (FLEET, 4, 2, 2),
    ]
    first, second = found.cohorts
    assert (first.cohort.devices, first.cohort.online, first.cohort.up_to_date) == (3, 2, 2)
    assert (first.cohort.audits, first.cohort.revision, first.cohort.policy) == (150, 2, "confidence")
    assert (first.disagreement.samples, first.disagreement.observed) == (100, 0.05)
    assert first.exit_mix.counts == (10, 6, 4)
    assert (second.cohort.cohort, second.cohort.revision, second.exit_mix.samples) == ("lab", None, 0)
    assert [fleet.fleet for fleet in status(database, now=NOW, fleet="other").fleets] == ["other"]
    assert len(status(database, now=NOW, max_cohorts=1).cohorts) == 1
    with pytest.raises(NameLookupError, match="did you mean other"):
        status(database, now=NOW, fleet="othr")


def test_a_fleet_without_a_process_or_with_a_shard_that_nobody_stores_needs_attention(database):
    with database.writing() as session:
        add_device(session, "a")
        add_shards(session, FLEET, ["s0", "s1"], now=NOW)
    assert kinds(database) == ["no calibrator"]
    leases = Leases(database, FLEET)
    leases.acquire([leases.process, leader_lease(FLEET), shard_lease(FLEET, "s0")])
    [item] = status(database, now=NOW).attention
    assert (item.kind, item.subject) == ("shard not stored", f"{FLEET}/s1")
    [fleet] = status(database, now=NOW).fleets
    assert (len(fleet.processes.processes), fleet.processes.shards) == (1, 2)
    assert fleet.processes.leader is not None
    leases.acquire([shard_lease(FLEET, "*")])  # on SQLite, one process owns all shards
    assert kinds(database) == []
    leases.release(leases.held())
    assert kinds(database) == ["no calibrator"]


def test_a_revision_that_only_a_device_claims_is_shown_with_the_command_that_accepts_it(database):
    with database.writing() as session:
        add_device(session, "a")
        register(session).claimed_revision = 7
    item = next(item for item in status(database, now=NOW).attention if item.kind == "unknown revision")
    assert "claims revision 7" in item.text
    assert item.advice.endswith(f"edgeexit calibrator accept-revision {ADDRESS}")
    with database.writing() as session:
        find_cohort(session, ADDRESS).highest_unknown_revision = 7
    assert "unknown revision" not in kinds(database)


def test_the_newest_problem_of_the_current_revision_is_shown(database):
    with database.writing() as session:
        add_device(session, "a")
        cohort = register(session)
        for kind, details in (
            ("risk exceeded", {"revision": 2, "risk": 0.1}),
            ("refit postponed", {"revision": 2, "risk": 0.1, "cause": "too few audits"}),
            ("published", {"revision": 2}),
        ):
            add_event(session, cohort.id, kind, details, actor="calibrator", now=NOW)
    item = next(item for item in status(database, now=NOW).attention if item.kind == "risk exceeded")
    assert item.text == "revision 2: risk exceeded; too few audits"
    with database.writing() as session:
        details = {"revision": 1, "risk": 0.1}
        add_event(session, find_cohort(session, ADDRESS).id, "risk exceeded", details, actor="calibrator", now=NOW)
    assert "risk exceeded" not in kinds(database)


def test_a_database_over_its_limit_needs_attention(database):
    report = SizeReport(used_bytes=3 * 10**9, max_bytes=10**9, is_over=True, checked_at=NOW)
    with database.writing() as session:
        session.add(MaintenanceRow(name="size", details=msgspec.to_builtins(report), updated_at=NOW))
    [item] = status(database, now=NOW).attention
    assert (item.kind, item.text[:34]) == ("database full", "it has 3.0 GB and may have 1.0 GB,")


def test_devices_of_each_kind_are_counted_and_the_first_few_are_named(database):
    with database.writing() as session:
        for number in range(8):
            add_device(
                session, f"camera-{number}", fleet=("a", "b")[number % 2], troubles=Trouble.LOSSES,
                losses={"full": 1}, losses_at=NOW - timedelta(hours=20 if number < 6 else 30),
            )  # fmt: skip
    found = status(database, now=NOW, per_kind=4)
    assert found.attention_counts["losses"] == 6
    losses = [item.subject for item in found.attention if item.kind == "losses"]
    assert len(losses) == 4
    assert set(losses) < {f"{('a', 'b')[n % 2]}/s0/camera-{n}" for n in range(6)}
