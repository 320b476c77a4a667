"""Fills a calibrator's database with a large fleet, by SQL in bulk and without the ingest."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
from edgeexit_calibration.store.counts import pack_counts
from edgeexit_calibration.store.database import open_database
from edgeexit_calibration.store.table_base import TableBase
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    AuditRow,
    AuditTotalRow,
    CohortBucketRow,
    CohortRow,
    DeviceBucketRow,
    DeviceRow,
    EventRow,
    PolicyRevisionRow,
    RegistrationRow,
    ShardRow,
)
from edgeexit_calibration.store.troubles import Trouble
from sqlalchemy import (
    ColumnElement,
    Integer,
    String,
    Text,
    case,
    cast,
    create_engine,
    func,
    insert,
    literal,
    make_url,
    select,
    text,
)
from sqlalchemy.orm import Session

from edgeexit.policies import PolicyDocument, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.wire import SCORE_BINS, State, encode
from edgeexit.wire.counter_array import PER_EXIT, width_of

FLEET: Final = "shop"
EXITS: Final = 3
SHARDS: Final = 16
COHORTS: Final = 20
REVISIONS: Final = 40
"""Policies of each cohort."""
WRITERS: Final = 4
"""Processes that write buckets of one cohort."""
_BATCH: Final = 5000
_DAY_S: Final = 86400


class Size(NamedTuple):
    """What the database contains."""

    devices: int
    audited: int
    """Audited samples."""
    counted: int
    """Samples in the buckets of all cohorts."""
    events: int
    device_buckets: int
    """Buckets of each device."""


def fill(url: str, size: Size, now: datetime) -> None:
    """Create the tables in an empty database and fill them; a server gathers its statistics, as it does by itself."""
    open_database(url).close()
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg") if "postgresql" in url else url)
    is_sqlite = engine.dialect.name == "sqlite"  # this engine has no limits of time, unlike that of the calibrator
    with Session(engine) as session, session.begin():
        _add_cohorts(session, now)
        _add_devices(session, size.devices, now)
        _add_device_buckets(session, size, now)
        _add_cohort_buckets(session, size.counted, now)
        _add_audits(session, size, now)
        _add_events(session, size, now)
        if not is_sqlite:  # ids were chosen here
            for table in ("device", "cohort", "audit", "audited_sample", "event"):
                session.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"))  # noqa: S608
    if not is_sqlite:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE)"))
    engine.dispose()


def digest_of(cohort: int) -> str:
    """Return the digest of the bundle of a cohort."""
    return f"{cohort:02x}" * 32


def _add_cohorts(session: Session, now: datetime) -> None:
    for number in range(1, COHORTS + 1):
        session.add(CohortRow(id=number, fleet=FLEET, bundle=digest_of(number), cohort=f"cohort-{number:02}"))
    session.flush()
    policy = Confidence(temperatures=(1.0,) * EXITS, thresholds=(0.8,) * (EXITS - 1))
    for number in range(1, COHORTS + 1):
        session.add(
            RegistrationRow(
                cohort_id=number, model="resnet", exits=[f"e{k}" for k in range(EXITS)], costs=[1.0, 2.0, 3.0],
                cost_unit="ms", risk=0.05, delta=0.1, bundle_policy="", registered_by="bench", registered_at=now,
            )
        )  # fmt: skip
        for revision in range(1, REVISIONS + 1):
            document = PolicyDocument(
                bundle=digest_of(number),
                revision=revision,
                policy=policy,
                scope=Scope(fleet=FLEET, cohort=f"cohort-{number:02}"),
            )
            session.add(
                PolicyRevisionRow(
                    cohort_id=number, revision=revision, document=encode_document(document).decode(), reason="bench",
                    created_by="bench", created_at=now, published_at=now,
                )
            )  # fmt: skip
            session.add(AuditTotalRow(cohort_id=number, revision=revision, writer="", samples=0, disagreeing=0, loss=0))
    session.add_all(ShardRow(fleet=FLEET, shard=f"s{number:02}", first_seen=now) for number in range(SHARDS))
    session.flush()


def _numbers(count: int) -> ColumnElement[int]:
    """Return the column of a query that yields 0 to count - 1."""
    first = select(literal(0, Integer).label("i")).cte("numbers", recursive=True)
    return first.union_all(select(first.c.i + 1).where(first.c.i < count - 1)).c.i


def _padded(number: ColumnElement[Any], width: int) -> ColumnElement[str]:
    """Return a number with leading zeros."""
    return func.substr(cast(number + 10**width, Text), 2)


def _insert(session: Session, table: type[TableBase], values: dict[str, Any]) -> None:
    session.execute(insert(table).from_select(list(values), select(*values.values())))


def _add_devices(session: Session, count: int, now: datetime) -> None:
    i = _numbers(count)
    states = [
        encode(
            State(
                online=online, start="0" * 16, uptime_s=1.0, bundle=digest_of(1), cohort="cohort-01",
                revision=REVISIONS, accepted=REVISIONS, policy="confidence", agent="0.1",
            )
        ).decode()
        for online in (True, False)
    ]  # fmt: skip
    online = i % 11 != 0
    flags = case(
        (i % 101 == 0, int(Trouble.UNCONFIRMED)),
        (i % 211 == 0, int(Trouble.LOSSES)),
        (i % 307 == 0, int(Trouble.LOSSES | Trouble.PROBLEM)),
        (i % 5003 == 0, int(Trouble.CLONE)),
        else_=0,
    )
    row = DeviceRow.__table__.c
    _insert(
        session,
        DeviceRow,
        {
            "id": i + 1,
            "fleet": literal(FLEET),
            "shard": literal("s") + _padded(i % SHARDS, 2),
            "device": literal("camera-") + _padded(i, 7),
            "state": case((online, states[0]), else_=states[1]),
            "first_seen": literal(now, row.first_seen.type),
            "last_seen": literal(now, row.last_seen.type),
            "starts": literal({"0" * 16: 1.0}, row.starts.type),
            "clone_starts": literal([], row.clone_starts.type),
            "clone_seen_at": literal(now, row.clone_seen_at.type),
            "cohort_id": i % COHORTS + 1,
            "revision": case((i % 50 == 0, REVISIONS - 1), else_=REVISIONS),
            "online": online,
            "troubles": flags,
            "audited_samples": literal(0),
            "losses": literal({"full": 3}, row.losses.type),
            "losses_at": literal(now, row.losses_at.type),
            "drops": literal({}, row.drops.type),
        },
    )


def _spans(now: datetime) -> Iterator[tuple[int, int]]:
    """Yield width and begin of the buckets of one year, as the roll-up leaves them."""
    end = int(now.timestamp())
    for width_s, first_s, last_s in (
        (900, 0, _DAY_S),
        (3600, _DAY_S, 14 * _DAY_S),
        (_DAY_S, 14 * _DAY_S, 365 * _DAY_S),
    ):
        for begin in range((end - last_s) // width_s * width_s, (end - first_s) // width_s * width_s, width_s):
            yield width_s, begin


def _add_cohort_buckets(session: Session, counted: int, now: datetime) -> None:
    spans = list(_spans(now))
    parts = _packed(counted // (len(spans) * COHORTS * WRITERS) + 1)
    rows: list[dict[str, Any]] = []
    for index, (width_s, begin_s) in enumerate(spans):
        revision = 1 + index * REVISIONS // len(spans)
        rows += [
            {
                "cohort_id": cohort, "width_s": width_s, "begin_s": begin_s, "revision": revision,
                "writer": f"s{writer:02}", "counts": parts[(index + cohort + writer) % len(parts)],
            }
            for cohort in range(1, COHORTS + 1)
            for writer in range(WRITERS)
        ]  # fmt: skip
    for start in range(0, len(rows), _BATCH):
        session.execute(insert(CohortBucketRow), rows[start : start + _BATCH])


def _packed(samples: int) -> Sequence[bytes]:
    """Return packed counts with about this number of samples each, whose latencies spread over ten bins per exit."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(16):
        counts = np.zeros(width_of(EXITS), np.int64)
        for k, share in enumerate((0.6, 0.3, 0.1)):
            first = k * PER_EXIT
            counts[first : first + 2] = round(samples * share)
            counts[first + 2 : first + 2 + SCORE_BINS] = rng.multinomial(
                round(samples * share), [1 / SCORE_BINS] * SCORE_BINS
            )
            bins = slice(first + 2 + SCORE_BINS + 10 + k, first + 2 + SCORE_BINS + 20 + k)
            counts[bins] = rng.multinomial(round(samples * share), [0.1] * 10)
        parts.append(pack_counts(counts))
    return parts


def _add_device_buckets(session: Session, size: Size, now: datetime) -> None:
    if not size.device_buckets:
        return
    i = _numbers(size.devices * size.device_buckets)
    device, index = i // size.device_buckets, i % size.device_buckets
    newest = int(now.timestamp()) // 3600 * 3600
    _insert(
        session,
        DeviceBucketRow,
        {
            "device_id": cast(device, Integer) + 1,
            "width_s": literal(3600),
            "begin_s": newest - 3600 * (index + 24),
            "revision": literal(REVISIONS),
            "cohort_id": cast(device, Integer) % COHORTS + 1,
            "counts": literal(_packed(100)[0]),
        },
    )


def _add_audits(session: Session, size: Size, now: datetime) -> None:
    messages = size.audited // 100
    i = _numbers(messages)
    audit = AuditRow.__table__.c
    values = {
        "id": i + 1, "device_id": i % size.devices + 1, "start": literal("0" * 16), "sequence": i,
        "received_at": literal(now, audit.received_at.type),
    }  # fmt: skip
    _insert(session, AuditRow, values)
    i = _numbers(messages * 100)
    values = {
        "id": i + 1, "audit_id": cast(i % messages, Integer) + 1, "cohort_id": i % COHORTS + 1,
        "revision": i % REVISIONS + 1, "exits": literal(EXITS), "exit": i % EXITS, "disagrees": i % 23 == 0,
        "readouts": literal(bytes(16 * EXITS)), "counted": literal(value=True),
    }  # fmt: skip
    _insert(session, AuditedSampleRow, values)
    totals = session.execute(
        select(AuditedSampleRow.cohort_id, AuditedSampleRow.revision, func.count()).group_by(
            AuditedSampleRow.cohort_id, AuditedSampleRow.revision
        )
    ).all()
    for cohort_id, revision, samples in totals:
        row = session.get_one(AuditTotalRow, (cohort_id, revision, ""))
        row.samples, row.disagreeing, row.loss = samples, samples // 23, samples // 23
    session.flush()


def _add_events(session: Session, size: Size, now: datetime) -> None:
    i = _numbers(size.events)
    event = EventRow.__table__.c
    of_device = i % 2 == 0
    values = {
        "id": i + 1,
        "time": literal(now - timedelta(days=1), event.time.type),
        "actor": literal("calibrator", String),
        "kind": case((of_device, "key changed"), (i % 5 == 1, "risk exceeded"), else_="published"),
        "cohort_id": case((of_device, None), else_=i % COHORTS + 1),
        "device_id": case((of_device, i % size.devices + 1), else_=None),
        "details": literal(json.loads('{"revision": 1, "risk": 0.05}'), event.details.type),
    }
    _insert(session, EventRow, values)
