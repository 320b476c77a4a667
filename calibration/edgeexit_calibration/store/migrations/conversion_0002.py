"""Fills the new tables and columns of schema 0002 from those of 0001, so that every number stays the same.

It uses no code of the package: what it writes must not change when the package does.
"""

import json
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import sqlalchemy as sa

_DAY_S: Final = 86400
_PER_EXIT: Final = 62
_MAX: Final = 2**62 - 1
_BATCH: Final = 1000
_SHOWN_FOR: Final = timedelta(days=1)

Counts = list[int]
"""The counters of an exit after those of the other; at the end the failed inferences."""


def convert(connection: sa.Connection, *, now: datetime) -> None:
    """Convert everything; `now` decides which troubles of a device are recent."""
    _fill_shards(connection)
    _fill_devices(connection, now)
    _fill_audit_totals(connection)
    _convert_reports(connection)


def _fill_shards(connection: sa.Connection) -> None:
    connection.execute(
        sa.text(
            "INSERT INTO shard (fleet, shard, first_seen) "
            "SELECT fleet, shard, min(first_seen) FROM device GROUP BY fleet, shard"
        )
    )


def _fill_audit_totals(connection: sa.Connection) -> None:
    connection.execute(
        sa.text(
            "INSERT INTO audit_total (cohort_id, revision, writer, samples, disagreeing) "
            "SELECT cohort_id, revision, '', count(*), sum(CASE WHEN disagrees THEN 1 ELSE 0 END) "
            "FROM audited_sample GROUP BY cohort_id, revision"
        )
    )


def _fill_devices(connection: sa.Connection, now: datetime) -> None:
    cohorts = {
        (row.fleet, row.bundle, row.cohort): row.id
        for row in connection.execute(sa.text("SELECT id, fleet, bundle, cohort FROM cohort"))
    }
    device = sa.table(
        "device",
        *(sa.column(name) for name in ("id", "fleet", "state", "key", "offered_key", "revoked_at")),
        *(sa.column(name, sa.DateTime()) for name in ("clone_seen_at", "losses_at", "last_drop_at")),
        sa.column("drops", sa.JSON()),
        *(sa.column(name) for name in ("cohort_id", "revision", "online", "troubles")),
    )
    query = sa.select(device).order_by(device.c.id).limit(_BATCH)
    changing = device.update().where(device.c.id == sa.bindparam("device_id"))
    changing = changing.values(
        {name: sa.bindparam(f"new_{name}") for name in ("cohort_id", "revision", "online", "troubles")}
    )
    last = 0
    while rows := connection.execute(query.where(device.c.id > last)).all():
        last = rows[-1].id
        changes = []
        for row in rows:
            state = {} if row.state is None else json.loads(row.state)
            changes.append(
                {
                    "device_id": row.id,
                    "new_cohort_id": cohorts.get((row.fleet, state.get("bundle"), state.get("cohort"))),
                    "new_revision": state.get("revision"),
                    "new_online": state.get("online"),
                    "new_troubles": _troubles(row, state, now),
                }
            )
        connection.execute(changing, changes)


def _troubles(row: Any, state: dict[str, Any], now: datetime) -> int:
    """Return the flags of a device; the numbers are those of `troubles.Trouble`."""
    may_change = row.revoked_at is None and row.offered_key is not None
    other_drops = set(row.drops) - {"key not approved", "revoked"}
    flags = {
        1: row.clone_seen_at is not None,
        2: may_change and row.key is not None,
        4: bool(state.get("unconfirmed")) and bool(state.get("online")),
        8: state.get("reverted") is not None,
        16: state.get("rejected") is not None,
        32: may_change and row.key is None and "key not approved" in row.drops,
        64: bool(state.get("problems")),
        128: _is_recent(row.losses_at, now),
        256: _is_recent(row.last_drop_at, now) and bool(other_drops),
    }
    return sum(flag for flag, is_set in flags.items() if is_set)


def _is_recent(time: datetime | None, now: datetime) -> bool:
    return time is not None and now - time.replace(tzinfo=timezone.utc) < _SHOWN_FOR


def _convert_reports(connection: sa.Connection) -> None:
    """Make a series of each report, and put its counters into the bucket of the day at which it arrived."""
    series, device_bucket, cohort_bucket = (
        sa.table(name, *map(sa.column, columns))
        for name, columns in {
            "series": (
                *("device_id", "start", "revision", "cohort_id", "sequence", "counts"),
                *("width_s", "begin_s", "base", "started_at", "received_at"),
            ),
            "device_bucket": ("device_id", "width_s", "begin_s", "revision", "cohort_id", "counts"),
            "cohort_bucket": ("cohort_id", "width_s", "begin_s", "revision", "writer", "counts"),
        }.items()
    )
    exits = _exits_of_cohorts(connection)
    of_cohorts: dict[tuple[int, int, int], Counts] = {}
    of_devices: dict[tuple[int, int, int, int], Counts] = {}
    for rows in _reports(connection):
        of_batch = []
        for row in rows:
            report = json.loads(row.content)
            counts, arrival_s = _counts(report), row.received_at.replace(tzinfo=timezone.utc).timestamp()
            day_s, packed = int(arrival_s // _DAY_S) * _DAY_S, _pack(counts)
            of_batch.append(
                {
                    **{
                        name: getattr(row, name) for name in ("device_id", "start", "revision", "cohort_id", "sequence")
                    },
                    "counts": packed,
                    "width_s": _DAY_S,
                    "begin_s": day_s,
                    "base": packed,  # all of it is in the bucket of a device
                    "started_at": arrival_s - report["uptime_s"],
                    "received_at": row.received_at,
                }
            )
            _add(of_devices, (row.device_id, day_s, row.revision, row.cohort_id), counts)
            if len(counts) == exits[row.cohort_id] * _PER_EXIT + 1:  # others were never shown
                _add(of_cohorts, (row.cohort_id, day_s, row.revision), counts)
        connection.execute(series.insert(), of_batch)
        unfinished = rows[-1].device_id
        _insert_device_buckets(connection, device_bucket, of_devices, but=unfinished)
    _insert_device_buckets(connection, device_bucket, of_devices, but=None)
    if of_cohorts:
        connection.execute(
            cohort_bucket.insert(),
            [
                {
                    "cohort_id": cohort_id,
                    "width_s": _DAY_S,
                    "begin_s": day_s,
                    "revision": revision,
                    "writer": "",
                    "counts": _pack(counts),
                }
                for (cohort_id, day_s, revision), counts in sorted(of_cohorts.items())
            ],
        )


def _insert_device_buckets(
    connection: sa.Connection, table: Any, found: dict[tuple[int, int, int, int], Counts], *, but: int | None
) -> None:
    """Insert the buckets of all devices but one, and forget them."""
    done = sorted(key for key in found if key[0] != but)
    rows = [
        {
            "device_id": device_id,
            "width_s": _DAY_S,
            "begin_s": day_s,
            "revision": revision,
            "cohort_id": cohort_id,
            "counts": _pack(found.pop((device_id, day_s, revision, cohort_id))),
        }
        for device_id, day_s, revision, cohort_id in done
    ]
    if rows:
        connection.execute(table.insert(), rows)


def _exits_of_cohorts(connection: sa.Connection) -> defaultdict[int, int]:
    """Return the number of exits whose reports were shown: the registered one, otherwise the highest reported one."""
    registration = sa.table("registration", sa.column("cohort_id"), sa.column("exits", sa.JSON()))
    registered = {row.cohort_id: len(row.exits) for row in connection.execute(sa.select(registration))}
    exits = defaultdict(int, registered)
    for rows in _reports(connection, but=registered):
        for row in rows:
            exits[row.cohort_id] = max(exits[row.cohort_id], len(json.loads(row.content)["exits"]))
    return exits


def _reports(connection: sa.Connection, *, but: Collection[int] = ()) -> Iterator[list[Any]]:
    """Yield the reports, without those of some cohorts, in the order of their keys: those of a device at a time."""
    report = sa.table(
        "report",
        *(sa.column(name) for name in ("device_id", "start", "revision", "cohort_id", "sequence", "content")),
        sa.column("received_at", sa.DateTime()),
    )
    key = (report.c.device_id, report.c.start, report.c.revision)
    query = sa.select(report).where(report.c.cohort_id.not_in(but)).order_by(*key).limit(_BATCH)
    after: Any = sa.true()
    while rows := list(connection.execute(query.where(after)).all()):
        yield rows
        last = rows[-1]
        after = sa.tuple_(*key) > sa.tuple_(*map(sa.literal, (last.device_id, last.start, last.revision)))


def _counts(report: dict[str, Any]) -> Counts:
    counts: Counts = []
    for one in report["exits"]:
        counts += [one["reached"], one["exited"], *one["scores"], *one["latency"]]
    return [*counts, report["failed"]]


def _add(found: dict[Any, Counts], key: Any, counts: Counts) -> None:
    known = found.get(key)
    if known is None:
        found[key] = counts
        return
    short, long = sorted((known, counts), key=len)
    widened = [*short[:-1], *[0] * (len(long) - len(short)), short[-1]]
    found[key] = [min(a + b, _MAX) for a, b in zip(widened, long, strict=True)]


def _pack(counts: Counts) -> bytes:
    """Return the numbers that are not 0: exits and width of a value in bytes, their indices, their values."""
    indices = [index for index, value in enumerate(counts) if value]
    values = [counts[index] for index in indices]
    width, code = (8, "Q") if max(values, default=0) >> 32 else (4, "I")
    return struct.pack(f"<BB{len(values)}H{len(values)}{code}", len(counts) // _PER_EXIT, width, *indices, *values)
