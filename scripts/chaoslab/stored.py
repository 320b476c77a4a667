"""Reads what a calibrator's database contains, SQLite or PostgreSQL, with queries of its own."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from edgeexit_calibration.store.counts import counts_of, pack_counts, unpack_counts
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from edgeexit.wire import Report
from edgeexit.wire.counter_array import Counts

_SAMPLES = text(
    "SELECT s.readouts FROM audited_sample s JOIN audit a ON a.id = s.audit_id JOIN device d ON d.id = a.device_id "
    "WHERE d.device LIKE :device"
)
_SERIES = text(
    "SELECT s.device_id, s.start, s.revision, s.counts, s.base FROM series s JOIN device d ON d.id = s.device_id "
    "WHERE d.device LIKE :device"
)
_BUCKETS = text(
    "SELECT b.device_id, b.revision, b.counts FROM device_bucket b JOIN device d ON d.id = b.device_id "
    "WHERE d.device LIKE :device"
)
_COHORT_BUCKETS = text(
    "SELECT b.counts FROM cohort_bucket b JOIN cohort c ON c.id = b.cohort_id "
    "WHERE c.bundle = :bundle AND c.cohort = :cohort"
)
_POLICIES = text(
    "SELECT c.fleet, c.bundle, c.cohort, p.document FROM policy_revision p JOIN cohort c ON c.id = p.cohort_id "
    "WHERE p.revision = (SELECT max(o.revision) FROM policy_revision o WHERE o.cohort_id = c.id)"
)


class StoredMessages(NamedTuple):
    """The messages of some devices in a database."""

    samples: Counter[str]
    """Digest of the readouts of an audited sample -> number of rows."""
    reports: dict[tuple[str, int], str]
    """(start, revision) -> digest of the newest counters."""
    wrong_buckets: int
    """Revisions of a device whose buckets of time do not add up to the newest counters of all starts."""


class StoredDatabase:
    """The database of a calibrator, which may be in use.

    Args:
        url: SQLAlchemy URL.

    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = create_engine(url, poolclass=NullPool)

    def messages(self, device: str = "%") -> StoredMessages:
        """Return the messages of the devices whose names match an SQL pattern."""
        names = {"device": device}
        reports = {}
        totals: dict[tuple[int, int], Counts] = {}
        buckets: dict[tuple[int, int], Counts] = {}
        with self._reading() as connection:
            samples = Counter(digest(row.readouts) for row in connection.execute(_SAMPLES, names))
            for row in connection.execute(_SERIES, names):
                reports[row.start, row.revision] = digest(row.counts)
                counts = unpack_counts(row.counts)
                _add(totals, (row.device_id, row.revision), counts)
                newest = counts if row.base is None else counts - unpack_counts(row.base)
                _add(buckets, (row.device_id, row.revision), newest)
            for row in connection.execute(_BUCKETS, names):
                _add(buckets, (row.device_id, row.revision), unpack_counts(row.counts))
        keys = totals.keys() | buckets.keys()
        wrong = sum(not _equal(totals.get(key), buckets.get(key)) for key in keys)
        return StoredMessages(samples, reports, wrong)

    def cohort_counts(self, bundle: str, cohort: str) -> list[int]:
        """Return the totals of a cohort over all buckets, revisions and writers: [62 K + 1], or [] without any."""
        with self._reading() as connection:
            rows = connection.execute(_COHORT_BUCKETS, {"bundle": bundle, "cohort": cohort}).all()
        return _total(row.counts for row in rows)

    def series_counts(self, devices: Sequence[str]) -> list[int]:
        """Return the sum of the newest counters of all starts of some devices: [62 K + 1], or [] without any."""
        with self._reading() as connection:
            rows = [row for name in devices for row in connection.execute(_SERIES, {"device": name})]
        return _total(row.counts for row in rows)

    def events(self, kind: str) -> int:
        """Return the number of events of a kind."""
        with self._reading() as connection:
            query = text("SELECT count(*) FROM event WHERE kind = :kind")
            return int(connection.execute(query, {"kind": kind}).scalar_one())

    def drops(self, device: str) -> dict[str, int]:
        """Return how many messages of a device were not stored, by cause."""
        with self._reading() as connection:
            found = connection.execute(text("SELECT drops FROM device WHERE device = :device"), {"device": device})
            value: Any = found.scalar()
        return msgspec.json.decode(value) if isinstance(value, str) else dict(value or {})

    def policies(self) -> dict[tuple[str, str, str], bytes]:
        """Return the document of the current revision of each cohort that has one: (fleet, bundle, cohort) -> bytes."""
        with self._reading() as connection:
            rows = connection.execute(_POLICIES).all()
        return {(row.fleet, row.bundle, row.cohort): row.document.encode() for row in rows}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Yield a connection that reads one state of the database."""
        with self._engine.connect() as connection:
            if self._engine.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            else:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
            yield connection


def counts_digest(report: Report) -> str:
    """Return a digest of the counters of a report."""
    return digest(pack_counts(counts_of(report)))


def digest(content: bytes) -> str:
    """Return a short digest of bytes."""
    return hashlib.sha256(content).hexdigest()[:20]


def _total(packed: Iterable[bytes]) -> list[int]:
    total: dict[int, Counts] = {}
    for one in packed:
        _add(total, 0, unpack_counts(one))
    return total[0].tolist() if total else []


def _add(totals: dict[Any, Counts], key: Any, counts: Counts) -> None:
    totals[key] = totals[key] + counts if key in totals else counts


def _equal(one: Counts | None, other: Counts | None) -> bool:
    return one is not None and other is not None and bool(np.array_equal(one, other))
