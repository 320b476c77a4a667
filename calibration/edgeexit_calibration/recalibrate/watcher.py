"""Checks every registered cohort: feeds new audits to its drift detector, and refits its policy after an alarm.

Only audits of devices that counted when they arrived are used (see `enrolment.is_counted`).

A restart loses no state: detectors are recomputed from the audits in the database, and an event is written only if the
database does not contain it yet.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit.fitting import Fit
from edgeexit.limited_log import LimitedLog
from edgeexit.policies import PolicyDocument, decode_document
from edgeexit.policies.document import MAX_REVISION
from edgeexit.policies.readout import readouts_from_bytes
from edgeexit_calibration.recalibrate.drift import DriftAlarm, DriftDetector, new_detector, observe
from edgeexit_calibration.recalibrate.refit import PostponedRefit, refit
from edgeexit_calibration.recalibrate.settled_samples import SettledSamples
from edgeexit_calibration.store.cohorts import (
    CALIBRATOR,
    CohortAddress,
    EventKind,
    add_event,
    add_revision,
    current_revision,
    last_event,
    locked_cohort,
    registered_cohorts,
    revisions_with_temperatures,
)
from edgeexit_calibration.store.database import Database, DatabaseError
from edgeexit_calibration.store.leases import LeaseLostError
from edgeexit_calibration.store.tables import AuditedSampleRow, CohortRow, EventRow, RegistrationRow

_log = logging.getLogger(__name__)

_MAX_REFIT_AUDITS: Final = 20_000
"""A refit uses at most this many audits, the newest ones."""
_MAX_RENUMBERINGS: Final = 3
_RENUMBERING_WINDOW: Final = timedelta(hours=1)
_SAME_EVENT: Final = ("revision", "risk", "cause")
"""Two events of a kind are the same if these details are equal; the other details may differ."""


class _WatchState(msgspec.Struct, kw_only=True):
    """The detector of a cohort, for one revision and one risk."""

    revision: int
    detector: DriftDetector
    last_sample: int = 0
    """Id of the last audited sample that the detector has seen."""
    last_refit_sample: int = 0
    """Id of the last audited sample of the latest refit; the next refit waits for newer ones."""


class _RefitInput(msgspec.Struct, frozen=True, kw_only=True):
    """What the refit of a cohort with an alarm needs, as read from the database."""

    cohort_id: int
    address: CohortAddress
    current: PolicyDocument
    alarm: DriftAlarm
    costs: list[float]
    risk: float
    delta: float
    newest_sample: int
    """Id of the newest audited sample in `readouts`."""
    readouts: npt.NDArray[np.float32]
    """[N, K, 4] since the change."""


class Watcher:
    """Watches the cohorts of a fleet for drift and refits their policies.

    Args:
        database: contains the audits and receives the new revisions.
        fleet: the fleet whose cohorts are watched.
        min_audits: number of audits since the change that a refit waits for; None: twice the minimum that a
            certificate needs.
        alpha: while the risk is not exceeded, there are on average at least 1/alpha audits until a false alarm.

    """

    def __init__(self, database: Database, *, fleet: str, min_audits: int | None, alpha: float) -> None:
        self._database = database
        self._fleet = fleet
        self._min_audits = min_audits
        self._alpha = alpha
        self._repeats = LimitedLog(_log)
        self._states: dict[int, _WatchState] = {}
        self._settled = SettledSamples()

    def check(self, *, now: datetime) -> None:
        """Check every cohort once. An error in one cohort is logged, and the others are still checked.

        Raises DatabaseError and LeaseLostError; the next check repeats everything that was not committed.
        """
        with self._database.reading() as session:
            cohorts = registered_cohorts(session, self._fleet)
        for cohort_id, address in cohorts:
            self._check_and_log(cohort_id, address, now)

    def _check_and_log(self, cohort_id: int, address: CohortAddress, now: datetime) -> None:
        """Check a cohort; log its error, unless it concerns all cohorts."""
        try:
            self._check_cohort(cohort_id, address, now)
        except (DatabaseError, LeaseLostError):
            raise
        except Exception as error:  # noqa: BLE001 - an error of one cohort must not stop the others
            self._repeats.warning(address, "%s: the check failed: %s: %s", address, type(error).__name__, error)

    def _check_cohort(self, cohort_id: int, address: CohortAddress, now: datetime) -> None:
        with self._database.reading() as session:
            row = current_revision(session, cohort_id)
            cohort = session.get_one(CohortRow, cohort_id)
            needs_higher_number = row is not None and cohort.highest_unknown_revision >= row.revision
        if needs_higher_number:
            self._renumber(cohort_id, address, now)
        with self._database.reading() as session:
            refit_input = self._update_detector(session, cohort_id, address)
        if refit_input is not None:
            outcome = self._refit(refit_input)
            self._store_outcome(refit_input, outcome, now)
            self._states[cohort_id].last_refit_sample = refit_input.newest_sample

    def _refit(self, refit_input: _RefitInput) -> Fit | PostponedRefit:
        if refit_input.current.revision == MAX_REVISION:
            reason = f"revision {MAX_REVISION} is the last one; deploy a bundle with another digest"
            return PostponedRefit(cause="no revision left", reason=reason)
        return refit(
            refit_input.current.policy,
            refit_input.readouts,
            refit_input.costs,
            risk=refit_input.risk,
            delta=refit_input.delta,
            min_audits=self._min_audits,
        )

    def _renumber(self, cohort_id: int, address: CohortAddress, now: datetime) -> None:
        """Store the current policy again, under a number above the unknown revision."""
        with self._database.writing() as session:
            cohort, row = locked_cohort(session, cohort_id), current_revision(session, cohort_id)
            if row is None or cohort.highest_unknown_revision < row.revision:
                return
            if _recent_renumberings(session, cohort_id, now) >= _MAX_RENUMBERINGS:
                self._repeats.warning(
                    (address, "revisions"),
                    "%s: our key has signed revision %d, which this database did not issue, after others within %d "
                    "min; does another calibrator with another database serve the fleet? The policy keeps its number",
                    address,
                    cohort.highest_unknown_revision,
                    _RENUMBERING_WINDOW.total_seconds() // 60,
                )
                return
            current, unknown = decode_document(row.document.encode()), cohort.highest_unknown_revision
            reason = f"revision {unknown} is in use, but this database did not issue it"
            revision = add_revision(
                session,
                cohort,
                current.policy,
                current.certificate,
                max_latency=current.max_latency,
                reason=reason,
                created_by=CALIBRATOR,
                now=now,
            )
            details = {"revision": revision, "unknown_revision": unknown, "copied_revision": row.revision}
            add_event(session, cohort_id, "renumbered", details, actor=CALIBRATOR, now=now)
        _log.warning(
            "%s: %s; was the database restored from a backup? The policy of revision %d is published again as "
            "revision %d",
            address,
            reason,
            current.revision,
            revision,
        )

    def _update_detector(self, session: Session, cohort_id: int, address: CohortAddress) -> _RefitInput | None:
        """Feed new audits to the detector; return the input of a refit if there is an alarm and new audits."""
        registration, row = session.get_one(RegistrationRow, cohort_id), current_revision(session, cohort_id)
        if row is None:
            return None
        current = decode_document(row.document.encode())
        state = self._states.get(cohort_id)
        if state is None or (state.revision, state.detector.risk) != (current.revision, registration.risk):
            detector = new_detector(registration.risk, alpha=self._alpha)
            state = self._states[cohort_id] = _WatchState(revision=current.revision, detector=detector)
        exits = current.policy.exits
        if state.detector.alarm is None:
            span = (state.last_sample, self._settled.highest(session))
            positions, losses = _losses(session, cohort_id, current.revision, exits, span)
            state.detector = observe(state.detector, positions, losses)
            state.last_sample = int(positions[-1]) if len(positions) else state.last_sample
        alarm = state.detector.alarm
        if alarm is None:
            return None
        revisions = revisions_with_temperatures(session, cohort_id, current.policy.temperatures)
        newest_sample, readouts = _readouts(session, cohort_id, revisions, exits, first=alarm.change_position)
        if newest_sample == state.last_refit_sample:
            return None
        return _RefitInput(
            cohort_id=cohort_id,
            address=address,
            current=current,
            alarm=alarm,
            costs=registration.costs,
            risk=registration.risk,
            delta=registration.delta,
            newest_sample=newest_sample,
            readouts=readouts,
        )

    def _store_outcome(self, refit_input: _RefitInput, outcome: Fit | PostponedRefit, now: datetime) -> None:
        """Write the events of an alarm, and the new revision if the refit succeeded."""
        address, alarm, risk = refit_input.address, refit_input.alarm, refit_input.risk
        cohort_id, revision = refit_input.cohort_id, refit_input.current.revision
        exceeded = {"revision": revision, "risk": risk, **msgspec.to_builtins(alarm)}
        with self._database.writing() as session:
            cohort, row = locked_cohort(session, cohort_id), current_revision(session, cohort_id)
            if row is None or row.revision != revision:
                return  # a user registered another policy meanwhile, which the next check reads
            if _add_event_once(session, cohort_id, "risk exceeded", exceeded, now=now):
                _log.warning("%s: revision %d exceeds its risk of %g", address, revision, risk)
            if isinstance(outcome, PostponedRefit):
                postponed = {"revision": revision, "risk": risk, "cause": outcome.cause, "reason": outcome.reason}
                if _add_event_once(session, cohort_id, "refit postponed", postponed, now=now):
                    _log.warning("%s: refit postponed, revision %d stays active: %s", address, revision, outcome.reason)
                return
            reason = f"refitted: disagreement above {risk:g} since audit {alarm.change_position}"
            new_revision = add_revision(
                session,
                cohort,
                outcome.policy,
                outcome.certificate,
                max_latency=refit_input.current.max_latency,
                reason=reason,
                created_by=CALIBRATOR,
                now=now,
            )
            audits = len(refit_input.readouts)
            refitted = {"revision": new_revision, "audits": audits, "change_position": alarm.change_position}
            add_event(session, cohort_id, "refitted", refitted, actor=CALIBRATOR, now=now)
        _log.info("%s: refitted on %d audits; new revision %d", address, audits, new_revision)


def _recent_renumberings(session: Session, cohort_id: int, now: datetime) -> int:
    """Return how often a policy got a new number recently; two calibrators must not outbid each other for ever."""
    query = select(func.count()).select_from(EventRow).filter_by(cohort_id=cohort_id, kind="renumbered")
    return session.scalar(query.where(EventRow.time > now - _RENUMBERING_WINDOW)) or 0


def _add_event_once(
    session: Session, cohort_id: int, kind: EventKind, details: Mapping[str, Any], *, now: datetime
) -> bool:
    """Write an event unless the last event of its kind is the same; return True if it was written."""
    last = last_event(session, cohort_id, kind)
    if last is not None and all(last.details.get(name) == details.get(name) for name in _SAME_EVENT):
        return False
    add_event(session, cohort_id, kind, details, actor=CALIBRATOR, now=now)
    return True


def _losses(
    session: Session, cohort_id: int, revision: int, exits: int, span: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return ids and losses [n] of a revision's counted samples with ids in a span (after, until], in this order."""
    after, until = span
    rows = session.execute(
        select(AuditedSampleRow.id, AuditedSampleRow.disagrees)
        .filter_by(cohort_id=cohort_id, revision=revision, exits=exits, counted=True)
        .where(AuditedSampleRow.id > after, AuditedSampleRow.id <= until)
        .order_by(AuditedSampleRow.id)
    ).all()
    return np.array([row.id for row in rows], np.int64), np.array([row.disagrees for row in rows], np.bool_)


def _readouts(
    session: Session, cohort_id: int, revisions: Sequence[int], exits: int, *, first: int
) -> tuple[int, npt.NDArray[np.float32]]:
    """Return the newest sample's id and the readouts [N, K, 4] of counted samples from id `first` on, newest first."""
    rows = session.execute(
        select(AuditedSampleRow.id, AuditedSampleRow.readouts)
        .filter_by(cohort_id=cohort_id, exits=exits, counted=True)
        .where(AuditedSampleRow.id >= first, AuditedSampleRow.revision.in_(revisions))
        .order_by(AuditedSampleRow.id.desc())
        .limit(_MAX_REFIT_AUDITS)
    ).all()
    readouts = readouts_from_bytes(b"".join(row.readouts for row in rows), exits)
    return (rows[0].id if rows else 0), readouts
