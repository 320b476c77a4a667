"""Audits of models that predict maps: which are refused, what is stored of the others, and what the views show."""

from math import e

import msgspec
import numpy as np
import pytest
from edgeexit_calibration import disagreement, explain, register
from edgeexit_calibration.ingest.audit_check import wrong_task
from edgeexit_calibration.ingest.uplink import RefusedUplink, Uplink, read_uplink
from edgeexit_calibration.recalibrate.stored_audits import AuditReader
from edgeexit_calibration.recalibrate.used_revisions import ALL_REVISIONS
from edgeexit_calibration.store.stored_scores import differing_from_bytes
from edgeexit_calibration.store.tables import AuditedSampleRow, AuditTotalRow, RegistrationRow
from edgeexit_calibration.views.metrics import interval
from sqlalchemy import select

from edgeexit.fitting import lower_bound, upper_bound
from edgeexit.wire import up_topic
from tests.calibration.recalibrate.watching import GOAL, NOW, ingest, new_watcher
from tests.calibration.scenario import COHORT, DEVICE, audits_of, payload_of, store_uplinks

FRACTIONS = [(0.5, 0.25, 0.0), (0.125, 0.0, 0.0)]


def map_audit(bundle, *, revision=1, sequence=0, count=2):
    """Return an audit whose samples differ on these fractions of their maps."""
    [audit] = audits_of(bundle, count, revision=revision, first_sequence=sequence)
    samples = tuple(
        msgspec.structs.replace(sample, differing=FRACTIONS[n % 2]) for n, sample in enumerate(audit.samples)
    )
    return msgspec.structs.replace(audit, samples=samples)


@pytest.fixture
def address(database, bundle):
    """Register the bundle as a segmentation."""
    registered = register(database, bundle, cohort=COHORT, **GOAL).cohort
    with database.writing() as session:
        session.scalars(select(RegistrationRow)).one().task = "segmentation"
    return registered


def test_the_fractions_are_stored_and_their_mean_is_the_disagreement(database, bundle, address):
    audit = map_audit(bundle)
    ingest(database, audit, map_audit(bundle, sequence=1))
    taken = [FRACTIONS[n % 2][sample.exit] for n, sample in enumerate(audit.samples)]
    with database.reading() as session:
        rows = session.scalars(select(AuditedSampleRow).order_by(AuditedSampleRow.id)).all()
        total = session.scalars(select(AuditTotalRow)).one()
        assert total.loss == pytest.approx(2 * sum(taken))
        assert (total.samples, total.disagreeing) == (4, 2 * sum(loss > 0 for loss in taken))
    stored = differing_from_bytes(b"".join(row.differing for row in rows), 3)
    np.testing.assert_array_equal(stored, np.array(FRACTIONS * 2, np.float32))
    assert [row.disagrees for row in rows] == 2 * [loss > 0 for loss in taken]
    for found in (disagreement(database, address), disagreement(database, address, until=rows[-1].id)):
        assert found.observed == pytest.approx(np.mean(taken))
        assert (found.samples, found.unit) == (4, "pixels")
        assert found.low <= found.observed <= found.high
    half = disagreement(database, address, after=rows[0].id, until=rows[1].id)
    assert half.observed == pytest.approx(taken[1])


def test_one_batch_holds_audits_of_maps_and_of_classes(database, bundle, address):
    others = msgspec.structs.replace(audits_of(bundle, 50)[0], cohort="classes", sequence=1)
    labelled = map_audit(bundle)
    samples = tuple(msgspec.structs.replace(sample, label=1) for sample in labelled.samples)
    ingest(database, others, msgspec.structs.replace(labelled, samples=samples))
    maps, classes = disagreement(database, address), disagreement(database, address._replace(cohort="classes"))
    assert (maps.unit, maps.samples, classes.unit, classes.samples) == ("pixels", 2, "samples", 50)
    assert classes.observed == sum(sample.disagrees for sample in others.samples) / 50
    with database.reading() as session:
        assert set(session.scalars(select(AuditTotalRow.labelled))) == {0}
    new_watcher(database).check(now=NOW)
    found = explain(database, address, now=NOW)
    assert (found.unit, found.accuracy.samples) == ("pixels", 0)


def test_only_audits_of_the_task_of_the_bundle_are_stored(database, bundle, address):
    maps, classes = map_audit(bundle), audits_of(bundle, 2, first_sequence=1)[0]
    with database.writing() as session:
        stored = store_uplinks(session, [Uplink(DEVICE, maps), Uplink(DEVICE, classes)], now=NOW)
    [drop] = stored.drops
    assert (drop.cause, "no fractions of a map, but the bundle is a segmentation" in drop.detail) == ("invalid", True)
    assert disagreement(database, address).samples == 2
    assert "but the bundle is a classification" in wrong_task("classification", maps)
    assert wrong_task("classification", classes) is wrong_task("tagging", maps) is wrong_task(None, maps) is None


def test_audits_from_before_the_registration_count_only_if_they_fit_its_task(database, bundle):
    ingest(database, audits_of(bundle, 100, revision=0)[0], map_audit(bundle, revision=0, sequence=1))
    register(database, bundle, cohort=COHORT, **GOAL)
    reader = AuditReader(1, bundle.policy().policy, [0, 1], ALL_REVISIONS, loss="disagreement")
    found = {}
    for task in ("classification", "segmentation"):
        with database.writing() as session:
            session.scalars(select(RegistrationRow)).one().task = task
        with database.reading() as session:
            found[task] = reader.oldest(session, after=0, until=10**6, limit=1000)
    assert (len(found["classification"].ids), found["classification"].differing) == (100, None)
    np.testing.assert_array_equal(found["segmentation"].differing, np.array(FRACTIONS, np.float32))


def test_an_audit_in_which_some_samples_have_no_map_is_invalid(bundle):
    audit = map_audit(bundle)
    mixed = msgspec.structs.replace(
        audit, samples=(audit.samples[0], msgspec.structs.replace(audit.samples[1], differing=None))
    )
    topic = up_topic(DEVICE, "audit")
    refused = read_uplink(topic, payload_of(topic, mixed))
    assert isinstance(refused, RefusedUplink)
    assert "either every sample has the fractions of its map that differ, or none has" in refused.refusal.reason


def test_the_interval_of_fractions_is_that_of_bentkus():
    found = interval(20, 40, 7.5, task="tagging", confidence=0.9)
    assert (found.observed, found.unit) == (7.5 / 40, "tokens")
    assert found.low == lower_bound(7, 40, 0.05 / e)
    assert found.high == upper_bound(8, 40, 0.05 / e)
    rng = np.random.default_rng(1)
    means = [interval(0, 40, rng.beta(0.5, 4, 40).sum(), task="tagging", confidence=0.9) for _ in range(300)]
    assert np.mean([one.low <= 0.5 / 4.5 <= one.high for one in means]) >= 0.9
