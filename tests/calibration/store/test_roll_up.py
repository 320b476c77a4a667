"""Buckets that are merged: every sum stays the same, also when the process is killed in between."""

import multiprocessing
import os
import threading
from datetime import timedelta

from edgeexit_calibration import open_database
from edgeexit_calibration.store.maintenance import Maintenance, maintain
from edgeexit_calibration.store.retention import Merge, Retention, device_merges
from edgeexit_calibration.store.roll_up import MAX_ROWS, roll_up
from edgeexit_calibration.store.tables import AuditRow, CohortBucketRow, DeviceBucketRow, DeviceRow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, select

from tests.calibration.database_kinds import ON_POSTGRESQL, ON_SQLITE
from tests.calibration.store.stored_rows import (
    DAY_S,
    NOW,
    add_fleet,
    cohort_bucket,
    device_bucket,
    packed,
    series,
    sums,
    widths,
)

NOW_S = NOW.timestamp()


def test_buckets_become_hours_after_a_day_and_days_after_two_weeks(database):
    add_fleet(database)
    ages_days = (0, 0.5, 1.5, 1.51, 1.52, 15, 15.01, 15.5, 100)
    with database.writing() as session:
        session.add_all(device_bucket(NOW_S - age * DAY_S) for age in ages_days)
    before = sums(database, DeviceBucketRow)
    result = maintain(database, Retention(), now=NOW)
    assert sums(database, DeviceBucketRow) == before
    assert widths(database, DeviceBucketRow) == {900: 2, 3600: 1, 86400: 2}
    assert result.merged_buckets >= 7
    assert maintain(database, Retention(), now=NOW).merged_buckets == 0


def test_buckets_of_cohorts_become_hours_after_30_days_and_days_after_400(database):
    add_fleet(database)
    with database.writing() as session:
        session.add_all(
            cohort_bucket(NOW_S - age * DAY_S, writer=w) for age in (0, 29, 31, 399, 402) for w in ("", "s1")
        )
    before = sums(database, CohortBucketRow)
    maintain(database, Retention(), now=NOW)
    assert sums(database, CohortBucketRow) == before
    assert widths(database, CohortBucketRow) == {900: 4, 3600: 4, 86400: 2}


def test_an_hour_that_has_not_ended_a_day_ago_is_not_merged():
    (hours, days) = device_merges(Retention(), now_s=3600 * 1000 + 1799)
    assert hours == Merge(900, 3600, 3600 * (1000 - 24))
    assert days.before_s % 86400 == 0
    assert days.before_s <= 3600 * 1000 - 14 * DAY_S < days.before_s + 2 * DAY_S


def test_counts_that_arrive_late_for_a_merged_hour_are_added_to_it(database):
    add_fleet(database)
    begin = NOW_S - 2 * DAY_S
    with database.writing() as session:
        session.add(device_bucket(begin, width_s=3600, counts=packed(n0=5, n186=2**40)))
        session.add(device_bucket(begin, width_s=900, counts=packed(n0=1, n3=2**33, n186=1)))
    maintain(database, Retention(), now=NOW)
    with database.reading() as session:
        (row,) = session.scalars(select(DeviceBucketRow)).all()
        assert (row.width_s, row.counts) == (3600, packed(n0=6, n3=2**33, n186=2**40 + 1))


_BUCKETS = st.lists(
    st.tuples(
        st.sampled_from([900, 3600, 86400]),
        st.integers(0, 40 * DAY_S),  # age in s
        st.integers(1, 2),  # device
        st.integers(0, 1),  # revision
        st.integers(0, 186),  # index of a count
        st.integers(1, 2**40),
    ),
    min_size=1,
    max_size=40,
)


@ON_SQLITE
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(buckets=_BUCKETS, max_rows=st.integers(1, 5), steps=st.integers(0, 30))
def test_sums_are_equal_before_and_after_any_number_of_merges(database, buckets, max_rows, steps):
    with database.writing() as session:
        session.execute(delete(DeviceBucketRow))
        is_new = session.scalar(select(DeviceRow.id).limit(1)) is None
    if is_new:
        add_fleet(database)
    with database.writing() as session:
        for width_s, age_s, device, revision, index, value in buckets:
            counts = packed(**{f"n{index}": value})
            session.merge(
                device_bucket(NOW_S - age_s, width_s=width_s, device=device, revision=revision, counts=counts)
            )
    before = sums(database, DeviceBucketRow)
    for _ in range(steps):
        for merge in device_merges(Retention(), now_s=NOW_S):
            with database.writing() as session:
                roll_up(session, DeviceBucketRow, merge, max_rows=max_rows)
        assert sums(database, DeviceBucketRow) == before


def _maintain_and_die(url, statements):
    """Maintain, and die before statement number `statements`, as by SIGKILL."""
    opened, left = open_database(url), [statements]

    @event.listens_for(opened.engine, "before_cursor_execute")
    def _count(*_):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)

    maintain(opened, Retention(), now=NOW)


def test_a_kill_at_any_statement_changes_no_sum(database, database_url):
    add_fleet(database)
    with database.writing() as session:
        for device in (1, 2):
            session.add_all(device_bucket(NOW_S - age * 0.37 * DAY_S, device=device) for age in range(50))
        session.add_all(cohort_bucket(NOW_S - age * DAY_S) for age in range(0, 500, 10))
    before = sums(database, DeviceBucketRow), sums(database, CohortBucketRow)
    fork, codes = multiprocessing.get_context("fork"), []
    for statements in range(3, 60, 7):
        database.close()
        process = fork.Process(target=_maintain_and_die, args=(database_url, statements))
        process.start()
        process.join(60)
        codes.append(process.exitcode)
        assert (sums(database, DeviceBucketRow), sums(database, CohortBucketRow)) == before
    assert 9 in codes
    maintain(database, Retention(), now=NOW)
    assert (sums(database, DeviceBucketRow), sums(database, CohortBucketRow)) == before
    assert maintain(database, Retention(), now=NOW).merged_buckets == 0


@ON_POSTGRESQL
def test_maintenance_gives_way_to_a_process_that_has_locked_the_rows(database):
    add_fleet(database)
    begin = NOW_S - 2 * DAY_S
    with database.writing() as session:
        session.add(device_bucket(begin, width_s=3600))
        session.add(device_bucket(begin, width_s=900))
    before = sums(database, DeviceBucketRow)
    with database.writing() as session:
        session.scalars(select(DeviceBucketRow).filter_by(width_s=3600).with_for_update()).all()
        assert maintain(database, Retention(), now=NOW).postponed_steps == 1
    assert sums(database, DeviceBucketRow) == before
    assert maintain(database, Retention(), now=NOW).merged_buckets == 1
    assert sums(database, DeviceBucketRow) == before


def test_a_pass_continues_where_the_last_call_ended_and_the_next_one_waits(database):
    add_fleet(database, devices=1)
    with database.writing() as session:
        session.add_all(device_bucket(NOW_S - 2 * DAY_S - 900 * index) for index in range(600))
    maintenance, stop, calls = Maintenance(database, Retention()), threading.Event(), 1
    while (result := maintenance.run(now=NOW, stop=stop, max_s=0)) is None:
        calls += 1
    assert calls > 3
    assert result.merged_buckets >= 600
    assert maintenance.run(now=NOW, stop=stop) is None
    with database.reading() as session:
        assert session.scalars(select(DeviceBucketRow.width_s)).all().count(900) == 0


def test_one_transaction_merges_a_limited_number_of_buckets(database):
    add_fleet(database, devices=1)
    with database.writing() as session:
        session.add_all(device_bucket(NOW_S - 3 * DAY_S - 900 * index) for index in range(MAX_ROWS + 10))
    (merge, _) = device_merges(Retention(), now_s=NOW_S)
    with database.writing() as session:
        assert roll_up(session, DeviceBucketRow, merge) == MAX_ROWS


@ON_POSTGRESQL
def test_a_pass_that_would_wait_for_a_lock_is_no_outage_and_is_repeated(database):
    add_fleet(database)
    with database.writing() as session:
        session.add(AuditRow(device_id=1, start="0" * 16, sequence=1, received_at=NOW - timedelta(days=401)))
    maintenance, stop = Maintenance(database, Retention(), interval_s=60), threading.Event()
    with database.writing() as session:
        session.scalars(select(AuditRow).with_for_update()).all()
        while not _gave_up(maintenance, stop):
            pass
    result = None
    while result is None:
        result = maintenance.run(now=NOW + timedelta(minutes=2), stop=stop)
    assert result.deleted_audits == 1


@ON_POSTGRESQL
def test_a_locked_bucket_postpones_the_series_of_its_device_and_nothing_else(database):
    add_fleet(database, devices=1)
    begin_s = NOW_S - 95 * DAY_S
    with database.writing() as session:
        session.add(series("idle", NOW - timedelta(days=95), counts=packed(n0=1), begin_s=begin_s))
        session.add(device_bucket(begin_s))
        session.add(cohort_bucket(NOW_S - 40 * DAY_S))
    with database.writing() as session:
        session.scalars(select(DeviceBucketRow).with_for_update()).all()
        result = maintain(database, Retention(), now=NOW)
    assert (result.expired_series, result.postponed_steps, result.merged_buckets) == (0, 1, 1)
    assert maintain(database, Retention(), now=NOW).expired_series == 1


def _gave_up(maintenance, stop):
    """Continue a pass; return True if it gave up and waits for the next one."""
    assert maintenance.run(now=NOW, stop=stop) is None
    return maintenance._steps is None


@ON_POSTGRESQL
def test_a_bucket_that_another_process_merges_before_it_is_locked_is_created_again(database, database_url):
    add_fleet(database, devices=1)
    begin = NOW_S - 20 * DAY_S
    with database.writing() as session:
        session.add(device_bucket(begin, width_s=900))
        session.add(device_bucket(begin, width_s=3600, counts=packed(n0=2)))
    before, other = sums(database, DeviceBucketRow), open_database(database_url)
    (to_hours, to_days), merged = device_merges(Retention(), now_s=NOW_S), []

    @event.listens_for(database.engine, "after_cursor_execute")
    def _merge(_connection, _cursor, statement, *_):
        if statement.startswith("INSERT INTO device_bucket") and not merged:
            with other.writing() as session:
                merged.append(roll_up(session, DeviceBucketRow, to_days))

    with database.writing() as session:
        assert roll_up(session, DeviceBucketRow, to_hours) == 1
    other.close()
    assert merged == [1]
    assert sums(database, DeviceBucketRow) == before
    assert widths(database, DeviceBucketRow) == {3600: 1, 86400: 1}
