"""Leases: what one process does alone, until the lease ends or another process takes it over.

Times are those of the database's clock. A write transaction calls `check` first. On PostgreSQL that locks the rows of
the leases FOR KEY SHARE: a takeover, which needs them FOR UPDATE, waits for the commit, and a transaction that begins
after the takeover fails. A renewal does not change a key, so it never waits for the owner's own transactions. On SQLite
a write transaction excludes all others, so a plain read is enough.
"""

import secrets
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Float, delete, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from edgeexit.errors import EdgeExitError
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.process_identity import Liveness, liveness, place_of_this_process
from edgeexit_calibration.store.process_tables import LeaseRow

TTL_S: Final = 15.0
"""A lease ends this long after its last renewal."""
RENEW_S: Final = 5.0
"""Time between two renewals."""
_FORGET_S: Final = 3600.0
"""Leases of processes that ended longer ago are deleted."""
_POSTGRESQL: Final = "postgresql"


class LeaseLostError(EdgeExitError):
    """This process may no longer do what it held a lease for: the lease has ended, or another process has it."""


class Lease(NamedTuple):
    """A row of the table."""

    name: str
    owner: str
    place: str
    term: int
    remaining_s: float
    """Negative: ended."""


def leader_lease(fleet: str) -> str:
    """Return the name of the lease of a fleet's leader."""
    return f"{fleet} leader"


def shard_lease(fleet: str, shard: str) -> str:
    """Return the name of the lease of a shard."""
    return f"{fleet} shard {shard}"


def process_lease(fleet: str, owner: str) -> str:
    """Return the name of the lease by which other processes see that a process runs."""
    return f"{fleet} process {owner}"


class Leases:
    """The leases of one process of a fleet. Thread-safe.

    Args:
        database: contains the leases.
        fleet: the fleet.
        ttl_s: how long a lease lasts without a renewal.

    Attributes:
        owner: the random name of this process.
        place: host and process id.

    """

    def __init__(self, database: Database, fleet: str, *, ttl_s: float = TTL_S) -> None:
        self.owner = secrets.token_hex(8)
        self.place = place_of_this_process()
        self.process = process_lease(fleet, self.owner)
        self.leader = leader_lease(fleet)
        self._database = database
        self._fleet = fleet
        self._ttl_s = ttl_s
        self._is_postgresql = database.engine.dialect.name == _POSTGRESQL
        self._lock = threading.Lock()
        self._held_until: dict[str, float] = {}
        """Name -> monotonic seconds, never later than the end of the lease in the database."""

    def holds(self, name: str) -> bool:
        """Return True if the lease is certainly held now, without asking the database."""
        with self._lock:
            return self._held_until.get(name, 0.0) > time.monotonic()

    def held(self) -> set[str]:
        """Return the names of the leases that were held at the last renewal, ended ones included."""
        with self._lock:
            return set(self._held_until)

    def acquire(self, names: Collection[str]) -> dict[str, int]:
        """Acquire those of these leases that nobody holds; return the term of each. Raises DatabaseError.

        A lease is skipped while another process acquires it, or while its former owner commits.
        """
        begin = time.monotonic()
        with self._database.writing() as session:
            self._insert(session, sorted(names))
            free = select(LeaseRow.name, LeaseRow.term).where(
                LeaseRow.name.in_(names), LeaseRow.expires_at <= _now(session)
            )
            rows = session.execute(free.order_by(LeaseRow.name).with_for_update(skip_locked=True)).all()
            values = {"owner": self.owner, "place": self.place, "expires_at": _now(session) + self._ttl_s}
            terms = {name: term + 1 for name, term in rows}
            for name, term in terms.items():
                session.execute(update(LeaseRow).where(LeaseRow.name == name).values(term=term, **values))
        self._record(terms, begin)
        return terms

    def renew(self) -> set[str]:
        """Renew all held leases; return the names of those that others have taken over. Raises DatabaseError."""
        begin = time.monotonic()
        held = self.held()
        if not held:
            return set()
        with self._database.writing() as session:
            own = select(LeaseRow.name).where(LeaseRow.name.in_(held), LeaseRow.owner == self.owner)
            names = session.scalars(own.order_by(LeaseRow.name).with_for_update(key_share=True)).all()
            if names:
                renewed = update(LeaseRow).where(LeaseRow.name.in_(names))
                session.execute(renewed.values(expires_at=_now(session) + self._ttl_s))
        lost = held.difference(names)
        self._forget(lost)
        self._record(names, begin)
        return lost

    def release(self, names: Iterable[str]) -> None:
        """End leases at once, so that another process can acquire them. Raises DatabaseError."""
        ending = set(names)
        self._forget(ending)
        with self._database.writing() as session:
            own = select(LeaseRow.name).where(LeaseRow.name.in_(ending), LeaseRow.owner == self.owner)
            found = session.scalars(own.order_by(LeaseRow.name).with_for_update(key_share=True)).all()
            session.execute(update(LeaseRow).where(LeaseRow.name.in_(found)).values(expires_at=0.0))
            if self.process in found:
                session.execute(delete(LeaseRow).where(LeaseRow.name == self.process))

    def check(self, connection: Connection, names: Collection[str]) -> None:
        """Raise LeaseLostError unless this process holds these leases; they stay held until the transaction ends."""
        query = select(LeaseRow.name).where(
            LeaseRow.name.in_(names), LeaseRow.owner == self.owner, LeaseRow.expires_at > _now(connection)
        )
        if self._is_postgresql:
            query = query.order_by(LeaseRow.name).with_for_update(read=True, key_share=True)
        missing = set(names).difference(connection.scalars(query))
        if missing:
            raise LeaseLostError(f"the lease '{min(missing)}' has ended or another process has it; nothing is written")

    def all_of_fleet(self) -> dict[str, Lease]:
        """Return all leases of the fleet by their names, ended ones included. Raises DatabaseError."""
        with self._database.reading() as session:
            columns = (
                LeaseRow.name,
                LeaseRow.owner,
                LeaseRow.place,
                LeaseRow.term,
                LeaseRow.expires_at - _now(session),
            )
            query = select(*columns).where(LeaseRow.name.startswith(f"{self._fleet} ", autoescape=True))
            return {row[0]: Lease(*row) for row in session.execute(query)}

    def end_dead(self, name: str) -> Liveness | None:
        """End a lease whose owner has provably ended; return the state of the owner, None if nobody holds the lease."""
        with self._database.writing() as session:
            query = select(LeaseRow.owner, LeaseRow.place).where(
                LeaseRow.name == name, LeaseRow.expires_at > _now(session)
            )
            row = session.execute(query.with_for_update()).one_or_none()
            if row is None:
                return None
            state = liveness(row.place)
            if state == "dead":
                session.execute(update(LeaseRow).where(LeaseRow.owner == row.owner).values(expires_at=0.0))
            return state

    def forget_ended(self) -> None:
        """Delete the leases of processes that ended long ago. Raises DatabaseError."""
        with self._database.writing() as session:
            ended = LeaseRow.name.startswith(process_lease(self._fleet, ""), autoescape=True)
            session.execute(delete(LeaseRow).where(ended, LeaseRow.expires_at < _now(session) - _FORGET_S))

    def _insert(self, session: Session, names: Collection[str]) -> None:
        """Add rows for leases that do not exist yet, as ended ones."""
        rows: list[Mapping[str, Any]] = [
            {"name": name, "owner": "", "place": "", "term": 0, "expires_at": 0.0} for name in names
        ]
        if rows:
            adding = postgresql.insert(LeaseRow) if self._is_postgresql else sqlite.insert(LeaseRow)
            session.execute(adding.on_conflict_do_nothing(), rows)

    def _record(self, names: Iterable[str], begin: float) -> None:
        with self._lock:
            self._held_until.update(dict.fromkeys(names, begin + self._ttl_s))

    def _forget(self, names: Iterable[str]) -> None:
        with self._lock:
            for name in names:
                self._held_until.pop(name, None)


def database_time(session: Session) -> float:
    """Return the Unix time of the database's clock in s."""
    return float(session.scalar(select(_now(session))) or 0.0)


def _now(session: Session | Connection) -> ColumnElement[float]:
    """Return the Unix time of the database's clock in s, as an expression."""
    bind = session.get_bind() if isinstance(session, Session) else session
    if bind.dialect.name == _POSTGRESQL:
        return literal_column("extract(epoch from clock_timestamp())::double precision", Float)
    return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
