"""No query of the views reads all devices, audited samples, events or buckets; the plans of both databases show it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from edgeexit_calibration import (
    DeviceFilter,
    cohorts,
    device_events,
    devices,
    disagreement,
    events,
    exit_mix,
    policy_history,
    status,
    trend,
)
from edgeexit_calibration.store.cohorts import add_event, find_cohort
from edgeexit_calibration.store.tables import CohortBucketRow, RegistrationRow
from edgeexit_calibration.store.troubles import Trouble
from edgeexit_calibration.views import device_pages
from sqlalchemy import event, text

from tests.calibration.scenario import FLEET
from tests.calibration.views.filled import ADDRESS, NOW, add_device, counts_at

TABLES = ("device", "audited_sample", "event", "device_bucket", "cohort_bucket", "series", "policy_revision")
SINCE = NOW - timedelta(days=1)
QUERIES = {
    "status": lambda database: status(database, now=NOW),
    "status of a fleet": lambda database: status(database, now=NOW, fleet=FLEET),
    "cohorts": cohorts,
    "devices": devices,
    "next page": lambda database: devices(database, after=f"{FLEET}/s0/a"),
    "of a cohort": lambda database: devices(database, where=DeviceFilter(cohort=ADDRESS)),
    "online": lambda database: devices(database, where=DeviceFilter(online=True)),
    "in trouble": lambda database: devices(database, where=DeviceFilter(trouble=Trouble.LOSSES)),
    "prefix": lambda database: devices(database, where=DeviceFilter(prefix="a")),
    "trend of a cohort": lambda database: trend(database, ADDRESS, since=SINCE, until=NOW),
    "trend of a device": lambda database: trend(database, "a", since=SINCE, until=NOW),
    "events": lambda database: events(database, ADDRESS),
    "events of devices": device_events,
    "events of a device": lambda database: device_events(database, device="a"),
    "policies": lambda database: policy_history(database, ADDRESS),
    "exit mix": lambda database: exit_mix(database, ADDRESS, revision=1),
    "disagreement": lambda database: disagreement(database, ADDRESS),
}


@pytest.fixture
def filled(database):
    with database.writing() as session:
        for name in "abc":
            device = add_device(session, name, troubles=Trouble.LOSSES, losses_at=NOW, losses={"full": 1})
            add_event(session, None, "clone", {}, actor="x", now=NOW, device_id=device.id)
        cohort = find_cohort(session, ADDRESS)
        session.add(
            RegistrationRow(
                cohort_id=cohort.id, model="m", exits=["a", "b", "c"], costs=[1.0, 2.0, 3.0], cost_unit="ms",
                risk=0.1, delta=0.1, bundle_policy="", registered_by="x", registered_at=NOW,
            )
        )  # fmt: skip
        session.add(
            CohortBucketRow(
                cohort_id=cohort.id, width_s=900, begin_s=0, revision=1, writer="", counts=counts_at((1, 1, 1))
            )
        )
    return database


@contextmanager
def recorded(database) -> Iterator[list[tuple[str, object]]]:
    """Yield the statements that are executed in the block."""
    statements: list[tuple[str, object]] = []

    def record(_connection, _cursor, statement, parameters, _context, _many):
        statements.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", record)
    yield statements
    event.remove(database.engine, "before_cursor_execute", record)


def plan_of(database, statement, parameters):
    """Return the lines of the plan; PostgreSQL must not prefer to read a small table as a whole."""
    with database.engine.connect() as connection:
        if database.is_sqlite:
            return [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        connection.execute(text("SET enable_seqscan = off"))
        return [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)]


def full_scan(line, statement):
    """Return the large table that a line of a plan reads as a whole, or None; in the order of an index it may stop."""
    found = re.search(r"^SCAN (\w+?)(_\d+)?(?P<index> USING .*INDEX .*)?$|Seq Scan on (\w+)", line)
    if found is None or (found["index"] and "LIMIT" in statement):
        return None
    name = found[1] or found[4]
    return name if name in TABLES else None


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_a_large_table_as_a_whole(filled, monkeypatch, name):
    with recorded(filled) as statements:
        QUERIES[name](filled)
        monkeypatch.setattr(device_pages, "_MAX_CANDIDATES", 0)  # as if very many devices met the conditions
        QUERIES[name](filled)
    selects = [(statement, values) for statement, values in statements if statement.startswith(("SELECT", "WITH"))]
    assert selects
    for statement, parameters in selects:
        plan = plan_of(filled, statement, parameters)
        assert [line for line in plan if full_scan(line, statement)] == [], (statement, plan)


def test_a_full_scan_would_be_noticed(filled):
    for statement in ("SELECT * FROM device", "SELECT * FROM event WHERE actor = 'x' LIMIT 1"):
        assert any(full_scan(line, statement) for line in plan_of(filled, statement, ())), statement
