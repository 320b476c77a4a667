"""What is deleted when it is too old, and what never is."""

from datetime import timedelta

import pytest
from edgeexit_calibration.store.counts import sum_counts
from edgeexit_calibration.store.database_size import used_bytes
from edgeexit_calibration.store.expiry import (
    delete_samples,
    first_audit_since,
    sample_bounds,
)
from edgeexit_calibration.store.maintenance import maintain
from edgeexit_calibration.store.open_buckets import device_buckets
from edgeexit_calibration.store.retention import Retention
from edgeexit_calibration.store.size_limit import size_report
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditRow,
    AuditTotalRow,
    CohortBucketRow,
    DeviceBucketRow,
    EventRow,
    SeriesRow,
)
from sqlalchemy import func, select

from tests.calibration.store.stored_rows import (
    DAY_S,
    NOW,
    add_fleet,
    audit,
    cohort_bucket,
    device_bucket,
    packed,
    series,
    widths,
)

NOW_S = NOW.timestamp()


def _days(number):
    return timedelta(days=number)


def _add_audits(database, *found):
    for row, samples in found:
        with database.writing() as session:
            session.add_all(row)
            session.flush()
            session.add_all(samples)


def _sample_audits(database):
    with database.reading() as session:
        return session.scalars(select(AuditedSampleRow.audit_id).order_by(AuditedSampleRow.id)).all()


def test_buckets_of_devices_are_deleted_after_400_days_and_those_of_cohorts_never(database):
    add_fleet(database)
    with database.writing() as session:
        session.add_all(device_bucket(NOW_S - age * DAY_S, width_s=86400) for age in (399, 402, 900))
        session.add_all(cohort_bucket(NOW_S - age * DAY_S, width_s=86400) for age in (399, 402, 900))
    assert maintain(database, Retention(), now=NOW).deleted_buckets == 2
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(DeviceBucketRow)) == 1
    assert sum(widths(database, CohortBucketRow).values()) == 3


def test_series_without_reports_expire_to_tombstones_which_are_deleted_later(database):
    add_fleet(database, devices=1200)
    ages = {"young": 89, "idle": 91, "old": 401}
    with database.writing() as session:
        for device in (1, 700, 1200):
            session.add_all(
                series(name, NOW - _days(age), device=device, counts=packed(n0=1)) for name, age in ages.items()
            )
    first = maintain(database, Retention(), now=NOW)
    assert (first.expired_series, first.deleted_series) == (6, 3)
    with database.reading() as session:
        found = {(row.device_id, row.start): row.counts for row in session.scalars(select(SeriesRow))}
    assert found == {
        **{(device, "young"): packed(n0=1) for device in (1, 700, 1200)},
        **{(device, "idle"): None for device in (1, 700, 1200)},
    }
    second = maintain(database, Retention(), now=NOW)
    assert (second.expired_series, second.deleted_series) == (0, 0)


def test_the_newest_bucket_of_a_series_that_expires_becomes_a_row(database):
    add_fleet(database)
    begin_s = NOW_S - 95 * DAY_S
    with database.writing() as session:
        session.add(device_bucket(begin_s, counts=packed(n0=10, n3=1)))
        session.add(series("a", NOW - _days(95), counts=packed(n0=7, n3=2), base=packed(n0=5), begin_s=begin_s))
        session.add(series("b", NOW - _days(95), counts=packed(n0=1), begin_s=begin_s))
        session.add(series("c", NOW - _days(95), counts=packed(n0=1), base=packed(n0=1), device=2, begin_s=begin_s))
        before = [tuple(row) for row in device_buckets(session, [1, 2])]
    assert sum_counts([counts for *_, counts in before]) == packed(n0=13, n3=3)
    for _ in range(2):
        maintain(database, Retention(), now=NOW)
        with database.reading() as session:
            assert session.scalars(select(SeriesRow.base)).all() == [None] * 3
            [row] = session.scalars(select(DeviceBucketRow)).all()
            assert (row.device_id, row.counts) == (1, packed(n0=13, n3=3))
            assert [tuple(bucket)[-1] for bucket in device_buckets(session, [1, 2])] == [row.counts]


def test_old_events_are_deleted_unless_they_are_decisions_or_the_newest_of_their_kind(database):
    add_fleet(database)
    kinds = ("registered", "risk exceeded", "refit postponed", "refitted", "risk exceeded")
    with database.writing() as session:
        for kind in kinds:
            session.add(EventRow(time=NOW - _days(500), actor="calibrator", kind=kind, cohort_id=1, details={}))
        for kind in ("clone", "approved", "clone", "key changed"):
            session.add(EventRow(time=NOW - _days(450), actor="calibrator", kind=kind, device_id=1, details={}))
        session.add(EventRow(time=NOW - _days(450), actor="calibrator", kind="clone", device_id=2, details={}))
        session.flush()
        session.add(EventRow(time=NOW - _days(1), actor="calibrator", kind="refit postponed", cohort_id=1, details={}))
    assert maintain(database, Retention(), now=NOW).deleted_events == 3
    with database.reading() as session:
        kept = [(row.kind, row.cohort_id or -row.device_id) for row in session.scalars(select(EventRow))]
    assert sorted(kept) == sorted(
        [
            ("registered", 1),
            ("refitted", 1),
            ("risk exceeded", 1),
            ("refit postponed", 1),
            ("clone", -1),
            ("approved", -1),
            ("key changed", -1),
            ("clone", -2),
        ]
    )


def test_old_samples_are_deleted_unless_they_are_the_newest_ones_of_their_cohort(database):
    add_fleet(database, cohorts=2)
    _add_audits(
        database,
        audit(1, NOW - _days(500), samples=3, revision=1),
        audit(2, NOW - _days(450), samples=3, revision=2),
        audit(3, NOW - _days(420), samples=3, revision=1),
        audit(4, NOW - _days(10), samples=3, revision=1),
    )
    with database.reading() as session:
        young = first_audit_since(session, NOW - _days(400))
        bounds = sample_bounds(session, 1, first_young_audit=young, max_samples=1_000_000, kept=5)
    assert young == 4
    with database.writing() as session:
        assert delete_samples(session, bounds) == 7
    assert _sample_audits(database) == [3, 3, 4, 4, 4]
    with database.reading() as session:
        bounds = sample_bounds(session, 1, first_young_audit=young, max_samples=4, kept=4)
    with database.writing() as session:
        assert delete_samples(session, bounds) == 1
    assert _sample_audits(database) == [3, 4, 4, 4]


def test_numbers_of_audits_are_deleted_when_they_are_old_and_have_no_samples(database):
    add_fleet(database)
    _add_audits(
        database,
        audit(5, NOW - _days(500), samples=1),
        audit(6, NOW - _days(450), samples=0),
        audit(9, NOW - _days(399), samples=0),
    )
    with database.writing() as session:
        session.add(AuditTotalRow(cohort_id=1, revision=1, writer="", samples=1, disagreeing=0, loss=0))
    assert maintain(database, Retention(), now=NOW).deleted_audits == 1
    with database.reading() as session:
        assert session.scalars(select(AuditRow.id).order_by(AuditRow.id)).all() == [5, 9]
        assert session.scalars(select(AuditTotalRow.samples)).all() == [1]


@pytest.mark.parametrize("ages", [(), (500,), (10,), (500, 450, 401, 399, 10, 1), (450, 450, 10)])
def test_the_first_young_audit_is_found_for_any_gaps_between_ids(database, ages):
    add_fleet(database)
    _add_audits(database, *(audit(7 * number + 3, NOW - _days(age)) for number, age in enumerate(ages)))
    young = [7 * number + 3 for number, age in enumerate(ages) if age <= 400]
    with database.reading() as session:
        first = first_audit_since(session, NOW - _days(400))
    old = [7 * number + 3 for number, age in enumerate(ages) if age > 400]
    assert max(old, default=0) < first <= min(young, default=first)


def test_beyond_the_maximum_size_the_oldest_buckets_of_devices_are_deleted_first(database):
    add_fleet(database)
    counts = packed(**{f"n{index}": 1 for index in range(180)})
    with database.writing() as session:
        session.add_all(
            device_bucket(NOW_S - age * DAY_S, width_s=86400, device=device, counts=counts)
            for age in range(20, 320)
            for device in (1, 2)
        )
        session.add_all(device_bucket(NOW_S - 900 * age) for age in range(10))
        session.add(cohort_bucket(NOW_S - 300 * DAY_S, width_s=86400))
    _analyze(database)
    with database.reading() as session:
        used = used_bytes(session)
    maintain(database, Retention(max_bytes=used - 200_000), now=NOW)
    with database.reading() as session:
        left = session.scalars(select(DeviceBucketRow.begin_s).filter_by(width_s=86400)).all()
        report = size_report(session)
    assert 100 < len(left) < 500
    assert min(left) > NOW_S - 300 * DAY_S
    assert widths(database, DeviceBucketRow)[900] == 10
    assert report.used_bytes == used
    assert not report.is_over
    for _ in range(3):
        maintain(database, Retention(max_bytes=used - 200_000), now=NOW)
    with database.reading() as session:
        assert used_bytes(session) <= used - 200_000
        assert session.scalar(select(func.count()).select_from(DeviceBucketRow)) > 50  # and not much more than needed


def test_without_a_limit_any_longer_the_size_of_an_earlier_check_is_forgotten(database):
    maintain(database, Retention(max_bytes=1), now=NOW)
    maintain(database, Retention(), now=NOW)
    with database.reading() as session:
        assert size_report(session) is None


def test_a_limit_that_deleting_cannot_reach_is_a_warning_and_keeps_the_last_day(database, caplog):
    add_fleet(database)
    with database.writing() as session:
        session.add(device_bucket(NOW_S))
        session.add(device_bucket(NOW_S - 20 * DAY_S))
    maintain(database, Retention(max_bytes=1), now=NOW)
    assert widths(database, DeviceBucketRow) == {900: 1}
    with database.reading() as session:
        assert size_report(session).is_over
    assert "nothing more may be deleted" in caplog.text


def _analyze(database):
    if not database.is_sqlite:
        with database.writing() as session:
            session.connection().exec_driver_sql("ANALYZE")
