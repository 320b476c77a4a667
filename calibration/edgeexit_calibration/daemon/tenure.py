"""What this process owns: keeps its leases, takes over those of dead processes, and shares shards with the others.

One thread calls `step`. It renews every lease, reads which processes run, and moves shards by `lease_plan`.
"""

import logging
import random
import threading
import time
from collections.abc import Collection
from typing import Final, Protocol

from sqlalchemy import Connection

from edgeexit.errors import EdgeExitError
from edgeexit.limited_log import LimitedLog
from edgeexit_calibration.daemon.consumers import ALL_SHARDS
from edgeexit_calibration.ingest.outage import OutageLog
from edgeexit_calibration.store.database import Database, DatabaseError
from edgeexit_calibration.store.lease_plan import plan_moves
from edgeexit_calibration.store.leases import RENEW_S, TTL_S, Lease, Leases, leader_lease, process_lease, shard_lease
from edgeexit_calibration.store.process_identity import liveness, shown_place
from edgeexit_calibration.store.shards import known_shards

_log = logging.getLogger(__name__)

_MAX_SHOWN: Final = 10
_SCAN_S: Final = 1.0
"""Time between two looks at the leases of others."""
_LONG_S: Final = 1e8
"""A lease that ended longer ago was released: then its end is the Unix time 0."""


class CalibratorRunsError(EdgeExitError):
    """Another calibrator does what this one was started for."""


class TenureCallbacks(Protocol):
    """What happens when this process gains or loses something; called in the thread of `step`; must be short."""

    def gained_shard(self, shard: str) -> None:
        """Start to receive a shard, or all (`ALL_SHARDS`)."""

    def lost_shards(self, shards: Collection[str]) -> None:
        """Stop to receive shards."""

    def flush(self) -> None:
        """Wait a moment for a write in progress to end."""

    def gained_lead(self) -> None:
        """Start to lead the fleet."""

    def lost_lead(self) -> None:
        """Stop to lead the fleet."""

    def failed(self, error: EdgeExitError) -> None:
        """End the service."""


class Tenure:
    """The leases of this process. `step`, `claim` and `release` are for one thread; the rest is thread-safe.

    Args:
        database: contains the leases.
        fleet: the fleet.
        ttl_s: how long a lease lasts without a renewal.

    Attributes:
        gained: how often a shard was gained.

    """

    def __init__(self, database: Database, fleet: str, *, ttl_s: float = TTL_S) -> None:
        self.gained = 0
        self._database = database
        self._fleet = fleet
        self._leases = Leases(database, fleet, ttl_s=ttl_s)
        self._ttl_s = ttl_s
        self._renew_s = ttl_s * RENEW_S / TTL_S
        self._renew_due = 0.0
        self._shards: frozenset[str] = frozenset()
        self._leads = False
        self._is_alone = database.is_sqlite
        self._outage = OutageLog("leases")
        self._repeats = LimitedLog(_log)
        self._wake = threading.Event()

    @property
    def shards(self) -> frozenset[str]:
        """The shards that this process owns; only `ALL_SHARDS` if it owns all."""
        return self._shards

    @property
    def leads(self) -> bool:
        """Whether this process leads the fleet."""
        return self._leads

    def holds(self, shard: str) -> bool:
        """Return True if the shard is certainly owned now."""
        return self._leases.holds(shard_lease(self._fleet, shard))

    @property
    def holds_lead(self) -> bool:
        """Whether this process certainly leads the fleet now."""
        return self._leases.holds(self._leases.leader)

    def leases_of(self, shards: Collection[str]) -> tuple[str, ...]:
        """Return the names of the leases that a write for these shards needs."""
        return (self._leases.process, *(shard_lease(self._fleet, shard) for shard in shards))

    def check(self, connection: Connection, leases: Collection[str]) -> None:
        """Raise LeaseLostError unless the transaction may write under these leases."""
        self._leases.check(connection, leases)

    def check_lead(self, connection: Connection) -> None:
        """Raise LeaseLostError unless the transaction may write what only the leader writes."""
        self._leases.check(connection, (self._leases.leader,))

    def wake(self) -> None:
        """Let the next step happen now, with a renewal."""
        self._renew_due = 0.0
        self._wake.set()

    def claim(self, callbacks: TenureCallbacks, stop: threading.Event) -> None:
        """Acquire the first leases. On SQLite these are all that there are.

        Raises CalibratorRunsError if another process uses a database of SQLite, and DatabaseError.
        """
        if not self._is_alone:
            self._leases.acquire([self._leases.process])
            self._leases.forget_ended()
            self.step(callbacks)
            return
        names = [self._leases.leader, self._leases.process, shard_lease(self._fleet, ALL_SHARDS)]
        deadline = time.monotonic() + self._ttl_s + _SCAN_S
        while self._leases.leader not in (terms := self._leases.acquire(names)):
            state = self._leases.end_dead(self._leases.leader)
            if state == "alive" or (state == "unknown" and time.monotonic() >= deadline):
                raise CalibratorRunsError(self._refusal())
            if state == "unknown" and stop.wait(_SCAN_S):
                return
        self._leases.acquire([name for name in names if name not in terms])
        self._gain_lead(terms[self._leases.leader], callbacks)
        self._gain_shards([ALL_SHARDS], callbacks)

    def run(self, callbacks: TenureCallbacks, stop: threading.Event) -> None:
        """Take steps until `stop` is set."""
        while not stop.is_set():
            self._wake.wait(_SCAN_S * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not cryptography
            self._wake.clear()
            if stop.is_set():
                break
            try:
                self.step(callbacks)
                self._outage.succeeded()
            except DatabaseError as error:
                self._outage.failed(error)
            except Exception as error:  # noqa: BLE001 - the thread must not end
                self._repeats.error(type(error).__name__, "the leases could not be renewed: %r", error, exc_info=error)

    def step(self, callbacks: TenureCallbacks) -> None:
        """Renew the leases if they are due; on PostgreSQL, also acquire and give up some. Raises DatabaseError."""
        if time.monotonic() >= self._renew_due:
            lost = self._leases.renew()
            self._renew_due = time.monotonic() + self._renew_s * random.uniform(0.7, 1.0)  # noqa: S311 - jitter
            self._lose(lost, callbacks)
        if self._is_alone:
            return
        leases = self._without_dead(self._leases.all_of_fleet())
        live = {name: lease for name, lease in leases.items() if lease.remaining_s > 0}
        if self._leases.process not in live:
            self._leases.acquire([self._leases.process])
        if self._leases.leader not in live:
            for name, term in self._leases.acquire([self._leases.leader]).items():
                self._log_takeover([leases[name]] if name in leases else [])
                self._gain_lead(term, callbacks)
        self._share_shards(leases, live, callbacks)

    def release(self) -> None:
        """End all leases, so that other processes take over at once. Raises DatabaseError."""
        self._shards, self._leads = frozenset(), False
        self._leases.release(self._leases.held())

    def _without_dead(self, leases: dict[str, Lease]) -> dict[str, Lease]:
        """End the leases of processes of this host that were killed, and return the leases as they are then."""
        prefix = process_lease(self._fleet, "")
        places = {
            name: lease.place
            for name, lease in leases.items()
            if name.startswith(prefix) and lease.owner != self._leases.owner and lease.remaining_s > 0
        }
        dead = [name for name, place in places.items() if liveness(place) == "dead"]
        ended = [name for name in dead if self._leases.end_dead(name) == "dead"]
        for name in ended:
            _log.info("ends the leases of %s, which has ended", shown_place(places[name]))
        return self._leases.all_of_fleet() if ended else leases

    def _share_shards(self, leases: dict[str, Lease], live: dict[str, Lease], callbacks: TenureCallbacks) -> None:
        with self._database.reading() as session:
            shards = known_shards(session, self._fleet)
        prefix = shard_lease(self._fleet, "")
        owners = {name[len(prefix) :]: lease.owner for name, lease in live.items() if name.startswith(prefix)}
        processes = [name.rpartition(" ")[2] for name in live if name.startswith(process_lease(self._fleet, ""))]
        moves = plan_moves(self._leases.owner, processes, owners, shards)
        if moves.give_up:
            self._lose({shard_lease(self._fleet, shard) for shard in moves.give_up}, callbacks, to_share=True)
            callbacks.flush()
            self._leases.release([shard_lease(self._fleet, shard) for shard in moves.give_up])
        if moves.acquire:
            names = {shard_lease(self._fleet, shard): shard for shard in moves.acquire}
            acquired = self._leases.acquire(names)
            self._log_takeover([leases[name] for name in acquired if name in leases])
            self._gain_shards([names[name] for name in acquired], callbacks)

    def _gain_shards(self, shards: Collection[str], callbacks: TenureCallbacks) -> None:
        if not shards:
            return
        self.gained += 1
        self._shards = self._shards.union(shards)
        if ALL_SHARDS not in shards:
            _log.info("stores %s now: %s", _count(shards), _list(self._shards))
        for shard in shards:
            callbacks.gained_shard(shard)

    def _gain_lead(self, term: int, callbacks: TenureCallbacks) -> None:
        self._leads = True
        _log.info("leads fleet '%s' now (term %d)", self._fleet, term)
        callbacks.gained_lead()

    def _lose(self, names: Collection[str], callbacks: TenureCallbacks, *, to_share: bool = False) -> None:
        if not names:
            return
        if self._is_alone:
            callbacks.failed(CalibratorRunsError(self._refusal()))
            return
        prefix = shard_lease(self._fleet, "")
        shards = {name[len(prefix) :] for name in names if name.startswith(prefix)}.intersection(self._shards)
        if shards:
            self._shards = self._shards.difference(shards)
            why = "gives up" if to_share else "has lost to another process"
            _log.info("%s %s: %s; stores %s now", why, _count(shards), _list(shards), _list(self._shards) or "none")
            callbacks.lost_shards(shards)
        if self._leases.leader in names and self._leads:
            self._leads = False
            _log.warning("does not lead fleet '%s' any more: another process has taken over", self._fleet)
            callbacks.lost_lead()

    def _log_takeover(self, former: Collection[Lease]) -> None:
        """Log from which processes leases were taken that these had not released."""
        ended = [lease for lease in former if lease.place and lease.remaining_s > -_LONG_S]
        for place in sorted({lease.place for lease in ended if lease.owner != self._leases.owner}):
            since = min(-lease.remaining_s for lease in ended if lease.place == place)
            _log.info("takes over from %s, whose leases ended %.1f s ago", shown_place(place), since)

    def _refusal(self) -> str:
        lease = self._leases.all_of_fleet().get(leader_lease(self._fleet))
        where = "another calibrator" if lease is None else f"the calibrator on {shown_place(lease.place)}"
        return (
            f"fleet '{self._fleet}': {where} uses database '{self._database.name}'; stop that one first, or use "
            "PostgreSQL, on which several processes serve one fleet"
        )


def _count(shards: Collection[str]) -> str:
    return f"{len(shards)} shard" + ("" if len(shards) == 1 else "s")


def _list(shards: Collection[str]) -> str:
    shown = sorted(shards)
    more = len(shown) - _MAX_SHOWN
    return ", ".join(shown[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
