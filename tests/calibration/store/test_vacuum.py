"""Vacuum makes the file smaller; a dry run counts what maintenance would do."""

from datetime import timedelta

import pytest
from edgeexit_calibration import DatabaseError, Retention, due_maintenance, maintain, open_database, vacuum_database
from edgeexit_calibration.store.tables import DeviceBucketRow, EventRow
from sqlalchemy import delete, event, func, select

from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.store.stored_rows import (
    DAY_S,
    NOW,
    add_fleet,
    audit,
    cohort_bucket,
    device_bucket,
    packed,
    policy,
    series,
)
from tests.disks import fill, small_disk

NOW_S = NOW.timestamp()


@ON_SQLITE
def test_the_file_becomes_smaller(database):
    add_fleet(database)
    with database.writing() as session:
        session.add_all(device_bucket(NOW_S - 900 * index) for index in range(5000))
    with database.writing() as session:
        session.execute(delete(DeviceBucketRow).where(DeviceBucketRow.begin_s < NOW_S - DAY_S))
    sizes = vacuum_database(database)
    assert sizes.after < sizes.before / 2
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(DeviceBucketRow)) > 90


def test_vacuum_changes_no_row_and_later_transactions_work(database):
    add_fleet(database)
    vacuum_database(database)
    with database.writing() as session:
        session.add(device_bucket(NOW_S))
    vacuum_database(database)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(DeviceBucketRow)) == 1


def test_a_dry_run_counts_exactly_what_maintenance_does(database):
    add_fleet(database)
    with database.writing() as session:
        session.add(policy(1))
        session.add_all(device_bucket(NOW_S - age * DAY_S) for age in (0, 2, 3, 16, 500))
        session.add_all(device_bucket(NOW_S - age * DAY_S, width_s=86400) for age in (17, 401, 600))
        session.add_all(cohort_bucket(NOW_S - age * DAY_S) for age in (0, 31, 32))
        session.add_all(series(f"s{age}", NOW - timedelta(days=age), counts=packed(n0=1)) for age in (1, 91, 450))
        for kind in ("clone", "clone", "approved"):
            session.add(
                EventRow(time=NOW - timedelta(days=500), actor="calibrator", kind=kind, device_id=1, details={})
            )
        for number in (1, 2):
            row, samples = audit(number, NOW - timedelta(days=500), samples=number - 1)
            session.add_all(row)
            session.flush()
            session.add_all(samples)
    expected = due_maintenance(database, Retention(), now=NOW)
    done = maintain(database, Retention(), now=NOW)
    assert (expected.deleted_events, expected.deleted_audits) == (done.deleted_events, done.deleted_audits) == (1, 1)
    assert (expected.expired_series, expected.deleted_series) == (done.expired_series, done.deleted_series) == (2, 1)
    assert expected.merged_buckets <= done.merged_buckets  # a bucket may be merged twice
    assert expected.deleted_buckets <= done.deleted_buckets + 1  # two of them may have been merged before
    left = due_maintenance(database, Retention(), now=NOW)
    assert left == type(left)()


def test_vacuum_needs_space_on_the_disk(tmp_path):
    with small_disk(tmp_path / "small", kilobytes=1200) as disk:
        database = open_database(str(disk / "calibrator.sqlite"))
        filler = fill(disk)
        with pytest.raises(DatabaseError, match=r"vacuum needs .* MB, but the disk has"):
            vacuum_database(database)
        filler.unlink()
        database.close()


def test_no_transaction_of_maintenance_has_more_than_a_few_hundred_statements(database):
    """So that the storage of messages never waits long: a bound that does not depend on the speed of the machine."""
    add_fleet(database)
    with database.writing() as session:
        session.add_all(device_bucket(NOW_S - 2 * DAY_S - 900 * index) for index in range(2000))
    rows, largest = 0, 0

    @event.listens_for(database.engine, "before_cursor_execute")
    def _count(_connection, _cursor, _statement, parameters, _context, is_many):
        nonlocal rows
        rows += len(parameters) if is_many else 1

    @event.listens_for(database.engine, "commit")
    def _commit(_connection):
        nonlocal rows, largest
        largest, rows = max(largest, rows), 0

    maintain(database, Retention(), now=NOW)
    assert 100 < largest < 1500
