"""Watches every registered cohort: new audits into its detector, and after an alarm a refit into the next revision.

Nothing here has to survive a restart: detectors are folded again from the audits in the database, and events are
written once because the database is asked first.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.fitting import Fit
from edgeexit.policies import PolicyDocument, decode_document
from edgeexit_calibration.cohorts import (
    CALIBRATOR,
    CohortAddress,
    add_event,
    add_revision,
    current_revision,
    last_event,
    registered_cohorts,
    revisions_with_temperatures,
)
from edgeexit_calibration.database import Database, DatabaseError
from edgeexit_calibration.drift import Alarm, Watch, observe, watch
from edgeexit_calibration.recalibrate import Hold, refit
from edgeexit_calibration.tables import AuditedSample, Cohort, Registration

_log = logging.getLogger(__name__)

_MAX_WINDOW: Final = 20_000
"""Newest audits that a refit uses at most."""
_SAME_EVENT: Final = ("revision", "risk", "cause")
"""Details that make an event the same as the last one, whatever its figures are by now."""


class _Progress(msgspec.Struct, kw_only=True):
    """How far a cohort's audits have been watched, for one revision and one goal."""

    revision: int
    detector: Watch
    position: int = 0
    """The last sample seen."""
    tried: int = 0
    """The last sample of the last attempt to refit: the next one waits for news."""


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort whose alarm is on, and what the database held of it."""

    cohort_id: int
    address: CohortAddress
    current: PolicyDocument
    alarm: Alarm
    costs: list[float]
    risk: float
    delta: float
    newest: int
    """The last sample of the readouts."""
    readouts: npt.NDArray[np.float32]
    """[N, K, 4] since the change."""


class Watcher:
    """Looks after the policies of a fleet's cohorts.

    Args:
        database: whose audits are watched and whose revisions are written.
        fleet: whose cohorts.
        min_audits: audits since a change that a refit waits for; default: twice what a certificate needs.
        alpha: at most one false alarm in 1/alpha audits while the risk holds.

    """

    def __init__(self, database: Database, *, fleet: str, min_audits: int | None, alpha: float) -> None:
        self._database = database
        self._fleet = fleet
        self._min_audits = min_audits
        self._alpha = alpha
        self._progress: dict[int, _Progress] = {}

    def check(self, *, now: datetime) -> None:
        """Look at every cohort once; one that cannot be dealt with is logged and does not hold up the others.

        Raises DatabaseError; what was not finished is done at the next check.
        """
        with self._database.reading() as session:
            cohorts = registered_cohorts(session, self._fleet)
        for cohort_id, address in cohorts:
            self._check_apart(cohort_id, address, now)

    def _check_apart(self, cohort_id: int, address: CohortAddress, now: datetime) -> None:
        try:
            self._check_cohort(cohort_id, address, now)
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is this cohort's
            what = " ".join(str(error).split())
            _log.warning("%s: the check failed: %s: %s", address, type(error).__name__, what)

    def _check_cohort(self, cohort_id: int, address: CohortAddress, now: datetime) -> None:
        with self._database.reading() as session:
            row = current_revision(session, cohort_id)
            overtaken = row is not None and session.get_one(Cohort, cohort_id).foreign_revision >= row.revision
        if overtaken:
            self._overtake(cohort_id, address, now)
        with self._database.reading() as session:
            look = self._look(session, cohort_id, address)
        if look is not None:
            outcome = refit(
                look.current.policy,
                look.readouts,
                look.costs,
                risk=look.risk,
                delta=look.delta,
                min_audits=self._min_audits,
            )
            self._act(look, outcome, now)
            self._progress[cohort_id].tried = look.newest

    def _overtake(self, cohort_id: int, address: CohortAddress, now: datetime) -> None:
        """Give the current policy a number above the one that devices run and this database does not know."""
        with self._database.writing() as session:
            cohort, row = session.get_one(Cohort, cohort_id), current_revision(session, cohort_id)
            if row is None or cohort.foreign_revision < row.revision:
                return
            current, foreign = decode_document(row.document.encode()), cohort.foreign_revision
            reason = f"devices run a revision {foreign} that this database did not give"
            revision = add_revision(
                session, cohort, current.policy, current.certificate, reason=reason, who=CALIBRATOR, now=now
            )
            details = {"revision": revision, "foreign": foreign, "content_of": row.revision}
            add_event(session, cohort_id, "overtaken", details, who=CALIBRATOR, now=now)
        _log.warning(
            "%s: %s: was the database restored? The policy of revision %d goes out again as revision %d",
            address,
            reason,
            current.revision,
            revision,
        )

    def _look(self, session: Session, cohort_id: int, address: CohortAddress) -> _Look | None:
        """Take in new audits; return the cohort where its alarm is on and there are audits not tried yet."""
        asked, row = session.get_one(Registration, cohort_id), current_revision(session, cohort_id)
        if row is None:
            return None
        current = decode_document(row.document.encode())
        progress = self._progress.get(cohort_id)
        if progress is None or (progress.revision, progress.detector.risk) != (current.revision, asked.risk):
            progress = _Progress(revision=current.revision, detector=watch(asked.risk, alpha=self._alpha))
            self._progress[cohort_id] = progress
        exits = current.policy.exits
        if progress.detector.alarm is None:
            positions, losses = _losses(session, cohort_id, current.revision, exits, after=progress.position)
            progress.detector = observe(progress.detector, positions, losses)
            progress.position = int(positions[-1]) if len(positions) else progress.position
        alarm = progress.detector.alarm
        if alarm is None:
            return None
        revisions = revisions_with_temperatures(session, cohort_id, current.policy.temperatures)
        newest, readouts = _window(session, cohort_id, revisions, exits, since=alarm.since)
        if newest == progress.tried:
            return None
        return _Look(
            cohort_id=cohort_id,
            address=address,
            current=current,
            alarm=alarm,
            costs=asked.costs,
            risk=asked.risk,
            delta=asked.delta,
            newest=newest,
            readouts=readouts,
        )

    def _act(self, look: _Look, outcome: Fit | Hold, now: datetime) -> None:
        revision = look.current.revision
        broken = {"revision": revision, "risk": look.risk, **msgspec.to_builtins(look.alarm)}
        with self._database.writing() as session:
            row = current_revision(session, look.cohort_id)
            if row is None or row.revision != revision:
                return  # somebody registered a policy meanwhile: look again at the next check
            if _add_event_once(session, look.cohort_id, "certificate broken", broken, now=now):
                _log.warning("%s: revision %d breaks its risk of %g", look.address, revision, look.risk)
            if isinstance(outcome, Hold):
                held = {"revision": revision, "risk": look.risk, "cause": outcome.cause, "reason": outcome.reason}
                if _add_event_once(session, look.cohort_id, "held", held, now=now):
                    _log.warning("%s: keeps revision %d: %s", look.address, revision, outcome.reason)
                return
            reason = f"disagreement above {look.risk:g} since audit {look.alarm.since}; refitted"
            cohort = session.get_one(Cohort, look.cohort_id)
            refitted_to = add_revision(
                session, cohort, outcome.policy, outcome.certificate, reason=reason, who=CALIBRATOR, now=now
            )
            refitted = {"revision": refitted_to, "audits": len(look.readouts), "since": look.alarm.since}
            add_event(session, look.cohort_id, "refitted", refitted, who=CALIBRATOR, now=now)
        _log.info("%s: refitted to revision %d on %d audits", look.address, refitted_to, len(look.readouts))


def _add_event_once(session: Session, cohort_id: int, what: str, details: Mapping[str, Any], *, now: datetime) -> bool:
    """Write an event unless the last one of its kind is about the same; return whether it was written."""
    last = last_event(session, cohort_id, what)
    if last is not None and all(last.details.get(name) == details.get(name) for name in _SAME_EVENT):
        return False
    add_event(session, cohort_id, what, details, who=CALIBRATOR, now=now)
    return True


def _losses(
    session: Session, cohort_id: int, revision: int, exits: int, *, after: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return ids and losses [n] of a revision's audited samples behind `after`, in order of arrival."""
    rows = session.execute(
        select(AuditedSample.id, AuditedSample.disagrees)
        .filter_by(cohort_id=cohort_id, revision=revision, exits=exits)
        .where(AuditedSample.id > after)
        .order_by(AuditedSample.id)
    ).all()
    return np.array([row.id for row in rows], np.int64), np.array([row.disagrees for row in rows], np.bool_)


def _window(
    session: Session, cohort_id: int, revisions: Sequence[int], exits: int, *, since: int
) -> tuple[int, npt.NDArray[np.float32]]:
    """Return the newest sample's id, and the readouts [N, K, 4] of these revisions from `since` on, newest first."""
    rows = session.execute(
        select(AuditedSample.id, AuditedSample.readouts)
        .filter_by(cohort_id=cohort_id, exits=exits)
        .where(AuditedSample.id >= since, AuditedSample.revision.in_(revisions))
        .order_by(AuditedSample.id.desc())
        .limit(_MAX_WINDOW)
    ).all()
    content = b"".join(row.readouts for row in rows)
    readouts = np.frombuffer(content, dtype="<f4").reshape(len(rows), exits, 4).astype(np.float32)
    return (rows[0].id if rows else 0), readouts
