"""A database of an earlier schema shows the same numbers after its migration, on every kind of database."""

import itertools
import logging
import multiprocessing
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import numpy as np
import pytest
from alembic import command
from edgeexit_calibration import (
    CohortAddress,
    back_up_database,
    disagreement,
    exit_mix,
    open_database,
    restore_database,
)
from edgeexit_calibration.store.counts import counts_of, sum_counts, unpack_counts
from edgeexit_calibration.store.schema import found_revision, migration_config, newest_revision
from edgeexit_calibration.store.table_base import TableBase
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditTotalRow,
    CohortBucketRow,
    DeviceBucketRow,
    DeviceRow,
    GuaranteeRow,
    SeriesRow,
    ShardRow,
)
from edgeexit_calibration.store.troubles import Trouble
from sqlalchemy import DateTime, Engine, bindparam, create_engine, event, inspect, select, text

from edgeexit.latency import bin_centre_ms
from edgeexit.wire.counter_array import exit_counters
from tests.calibration.scenario import report_of, state_of
from tests.postgres import postgres, use_programs_of_the_server

DIGEST = "c" * 64
NOW = datetime.now(timezone.utc).replace(microsecond=0)
BEFORE = NOW - timedelta(days=2, hours=1)
REGISTERED, OTHER = 1, 2


def _report(sequence, counts, *, revision=1, start="0" * 16, exits=3, failed=0):
    report = report_of(DIGEST, sequence=sequence, counts=counts, revision=revision, start=start)
    return msgspec.structs.replace(report, uptime_s=100.0, failed=failed)


REPORTS = [
    # device, cohort, received at, report
    (1, REGISTERED, BEFORE, _report(7, (5, 3, 2), failed=4)),
    (1, REGISTERED, NOW, _report(9, (1, 0, 2), start="1" * 16)),
    (1, REGISTERED, NOW, _report(3, (0, 0, 2**40), revision=2)),
    (2, REGISTERED, NOW, _report(1, (2, 2, 2))),
    (2, REGISTERED, NOW, _report(1, (100, 100), revision=2)),  # not shown: the bundle has three exits
    (2, OTHER, NOW, _report(1, (7, 8), start="2" * 16)),  # not shown: another device reports four exits
    (3, OTHER, NOW, _report(2, (1, 2, 3, 4), start="3" * 16)),
]
STATES = {
    1: (state_of(DIGEST, revision=2), Trouble(0)),
    2: (state_of(DIGEST, revision=1, online=False, problems=("disk full",)), Trouble.PROBLEM | Trouble.LOSSES),
    3: (None, Trouble(0)),
}
SHOWN = {(REGISTERED, 1): [0, 1, 3], (REGISTERED, 2): [2], (REGISTERED, None): [0, 1, 2, 3], (OTHER, None): [6]}
ADDRESSES = {
    REGISTERED: CohortAddress("shop", DIGEST, "cameras"),
    OTHER: CohortAddress("shop", "d" * 64, "cameras"),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def old_url(request, tmp_path):
    """Return the URL of a database of schema 0001, filled with SQL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'calibrator.sqlite'}"
        _fill(create_engine(url))
        yield url
    else:
        server = postgres()
        url = server.create()
        _fill(create_engine(url.replace("postgresql:", "postgresql+psycopg:")))
        yield url
        server.drop(url)


def _fill(engine):
    with engine.begin() as connection:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        command.upgrade(migration_config(connection), "0001")
        for cohort_id, address in ADDRESSES.items():
            _insert(connection, "cohort", id=cohort_id, **address._asdict(), highest_unknown_revision=0)
        _insert(
            connection,
            "registration",
            cohort_id=REGISTERED,
            model="m",
            exits='["e0", "e1", "e2"]',
            costs="[1, 2, 3]",
            cost_unit="ms",
            risk=0.1,
            delta=0.1,
            bundle_policy="{}",
            registered_by="user",
            registered_at=BEFORE,
            heartbeat=3,
        )
        for device_id, (state, troubles) in STATES.items():
            _insert(
                connection,
                "device",
                id=device_id,
                fleet="shop",
                shard=f"s{device_id // 2}",
                device=f"camera-{device_id}",
                state=None if state is None else msgspec.json.encode(state).decode(),
                first_seen=BEFORE,
                last_seen=NOW,
                starts="{}",
                clone_starts="[]",
                audited_samples=0,
                losses="{}",
                losses_at=NOW if troubles & Trouble.LOSSES else None,
                drops="{}",
            )
        for device_id, cohort_id, time, report in REPORTS:
            names = ("start", "revision", "sequence")
            values = {name: getattr(report, name) for name in names}
            content = msgspec.json.encode(report).decode()
            _insert(
                connection,
                "report",
                device_id=device_id,
                cohort_id=cohort_id,
                received_at=time,
                content=content,
                **values,
            )
        _insert(connection, "audit", id=1, device_id=1, start="0" * 16, sequence=1, received_at=NOW)
        for number in range(20):
            _insert(
                connection,
                "audited_sample",
                id=number + 1,
                audit_id=1,
                cohort_id=REGISTERED,
                revision=1 + number // 15,
                exits=3,
                exit=0,
                disagrees=number % 5 == 0,
                readouts=bytes(48),
            )
    engine.dispose()


def _insert(connection, table, **values):
    is_json = connection.dialect.name == "postgresql"
    json_columns = {"exits", "costs", "starts", "clone_starts", "losses", "drops"} if is_json else set()
    columns = ", ".join(values)
    marks = ", ".join(
        f"CAST(:{name} AS json)" if name in json_columns and isinstance(value, str) else f":{name}"
        for name, value in values.items()
    )
    times = {name: value.replace(tzinfo=None) for name, value in values.items() if isinstance(value, datetime)}
    statement = text(f"INSERT INTO {table} ({columns}) VALUES ({marks})")  # noqa: S608 - the tests write it
    statement = statement.bindparams(*(bindparam(name, type_=DateTime()) for name in times))
    connection.execute(statement, {**values, **times})


def _mean_latency_ms(reports):
    bins = np.sum([one.latency for report in reports for one in report.exits], axis=0)
    return sum(int(count) * bin_centre_ms(index) for index, count in enumerate(bins)) / int(bins.sum())


def test_every_number_of_the_first_schema_is_the_same_after_the_migration(old_url):
    database = open_database(old_url)
    for (cohort_id, revision), shown in SHOWN.items():
        reports = [REPORTS[index][3] for index in shown]
        mix = exit_mix(database, ADDRESSES[cohort_id], revision=revision)
        assert mix.counts == tuple(
            sum(one.exited for one in exits) for exits in zip(*(report.exits for report in reports), strict=True)
        )
        assert mix.samples == sum(mix.counts)
        assert mix.mean_latency_ms == pytest.approx(_mean_latency_ms(reports))
    for revision, (samples, disagreeing) in {1: (15, 3), 2: (5, 1), None: (20, 4)}.items():
        measured = disagreement(database, ADDRESSES[REGISTERED], revision=revision)
        assert (measured.samples, measured.disagreeing, measured.unit) == (samples, disagreeing, "samples")
        assert measured.observed == disagreeing / samples
    with database.reading() as session:
        for row in session.scalars(select(DeviceRow)):
            state, troubles = STATES[row.id]
            assert row.troubles == troubles
            assert (row.revision, row.online) == ((None, None) if state is None else (state.revision, state.online))
            assert row.cohort_id == (None if state is None else REGISTERED)
        totals = {(row.revision, row.samples, row.disagreeing) for row in session.scalars(select(AuditTotalRow))}
        assert totals == {(1, 15, 3), (2, 5, 1)}
        shards = {(row.shard, row.first_seen) for row in session.scalars(select(ShardRow))}
        assert shards == {("s0", BEFORE), ("s1", BEFORE)}
    database.close()


def test_a_report_becomes_a_series_and_the_bucket_of_its_day(old_url):
    database = open_database(old_url)
    with database.reading() as session:
        series = {(row.device_id, row.start, row.revision): row for row in session.scalars(select(SeriesRow))}
        assert len(series) == len(REPORTS)
        for device_id, cohort_id, time, report in REPORTS:
            row = series[device_id, report.start, report.revision]
            assert (row.cohort_id, row.sequence, row.received_at) == (cohort_id, report.sequence, time)
            assert row.started_at == pytest.approx(time.timestamp() - 100.0)
            counts = unpack_counts(row.counts)
            assert row.base == row.counts  # all of it is in the bucket of a device
            assert exit_counters(counts.tolist()) == report.exits
            assert counts[-1] == report.failed
            day = int(time.timestamp()) // 86400 * 86400
            key = {"device_id": device_id, "begin_s": day, "revision": report.revision, "cohort_id": cohort_id}
            bucket = session.scalars(select(DeviceBucketRow).filter_by(width_s=86400, **key)).one()
            alike = [
                counts_of(other)
                for other_id, other_cohort, other_time, other in REPORTS
                if (other_id, other_cohort, other.revision) == (device_id, cohort_id, report.revision)
                and int(other_time.timestamp()) // 86400 * 86400 == day
            ]
            assert np.array_equal(unpack_counts(bucket.counts), np.sum(alike, axis=0))
        everything = sum_counts(session.scalars(select(CohortBucketRow.counts).filter_by(cohort_id=REGISTERED)).all())
        shown = [counts_of(REPORTS[index][3]) for index in SHOWN[REGISTERED, None]]
        assert np.array_equal(unpack_counts(everything), np.sum(shown, axis=0))
    database.close()


def test_the_migrated_schema_is_that_of_the_tables(old_url):
    database = open_database(old_url)
    with database.reading() as session:
        connection = session.connection()
        command.check(migration_config(connection))  # raises if they differ
        assert set(inspect(connection).get_table_names()) == {*TableBase.metadata.tables, "alembic_version"}
        assert found_revision(connection) == newest_revision()
    database.close()


def test_audits_of_the_second_schema_are_those_of_this_one_and_have_no_scores(old_url):
    older = open_database(old_url, migrates=False)
    with older.writing() as session:
        command.upgrade(migration_config(session.connection()), "0002")
        session.execute(text("UPDATE audited_sample SET counted = false WHERE id = 1"))
    older.close()
    database = open_database(old_url)
    with database.reading() as session:
        samples = session.scalars(select(AuditedSampleRow).order_by(AuditedSampleRow.id)).all()
        assert [(row.id, row.counted, row.disagrees, row.readouts, row.scores) for row in samples] == [
            (number + 1, number > 0, number % 5 == 0, bytes(48), None) for number in range(20)
        ]
        assert session.scalars(select(GuaranteeRow)).all() == []
    with database.writing() as session:
        session.add(GuaranteeRow(cohort_id=REGISTERED, revision=1, last_sample=2**40, state=b"\0\1", updated_at=NOW))
    with database.reading() as session:
        [row] = session.scalars(select(GuaranteeRow)).all()
        assert (row.last_sample, row.state, row.updated_at) == (2**40, b"\0\1", NOW)
    database.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(old_url):
    older = open_database(old_url, migrates=False)
    with older.writing() as session:
        session.execute(text("UPDATE report SET content = 'no report' WHERE device_id = 3"))
    with pytest.raises(ValueError, match="Expecting value"):
        open_database(old_url)
    with older.reading() as session:
        assert found_revision(session.connection()) == "0001"
        assert "series" not in inspect(session.connection()).get_table_names()
    with older.writing() as session:
        session.execute(text("DELETE FROM report WHERE device_id = 3"))
    older.close()
    open_database(old_url).close()


def _open_and_die(url, statements):
    """Open a database, and die before statement number `statements`, as by SIGKILL."""
    left = [statements]

    @event.listens_for(Engine, "before_cursor_execute")
    def _count(*_):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)

    open_database(url).close()


def test_a_kill_in_the_migration_leaves_a_database_that_the_next_start_migrates(old_url):
    fork, kills = multiprocessing.get_context("fork"), 0
    for statements in itertools.count(1, 9):
        process = fork.Process(target=_open_and_die, args=(old_url, statements))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            break
        kills += 1
        assert process.exitcode == 9
        older = open_database(old_url, migrates=False)
        with older.reading() as session:
            assert found_revision(session.connection()) == "0001"
        older.close()
    assert kills > 3
    database = open_database(old_url)
    for (cohort_id, revision), shown in SHOWN.items():
        found = exit_mix(database, ADDRESSES[cohort_id], revision=revision)
        assert found.samples == sum(REPORTS[index][3].exits[0].reached for index in shown)
    database.close()


def test_a_backup_of_the_first_schema_replaces_a_database_of_this_one_and_the_other_way_round(
    old_url, tmp_path, monkeypatch
):
    if old_url.startswith("postgresql"):
        use_programs_of_the_server(monkeypatch)
    older = open_database(old_url, migrates=False)
    back_up_database(older, tmp_path / "old.backup")
    older.close()
    newer = open_database(old_url)
    back_up_database(newer, tmp_path / "new.backup")
    mix = exit_mix(newer, ADDRESSES[REGISTERED])
    newer.close()
    for name, schema in (("old.backup", "0001"), ("new.backup", newest_revision()), ("old.backup", "0001")):
        restored = restore_database(tmp_path / name, old_url)
        assert restored.schema == schema
        Path(restored.kept).unlink()
        is_old = open_database(old_url, migrates=False)
        with is_old.reading() as session:
            assert ("report" in inspect(session.connection()).get_table_names()) == (schema == "0001")
            assert found_revision(session.connection()) == schema
        is_old.close()
    database = open_database(old_url)
    assert exit_mix(database, ADDRESSES[REGISTERED]) == mix
    database.close()
