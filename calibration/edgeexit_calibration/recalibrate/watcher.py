"""Checks every registered cohort: its new audits advance its guarantee, and what follows from them is stored.

Only audits of devices that counted when they arrived are used (see `enrolment.is_counted`).

The state of a guarantee is stored with every change of the policy, and otherwise every few minutes, so a process that
starts or takes over continues from there with the audits of higher ids. It begins anew if a user has registered another
policy, loss, risk or delta; it does not if the same policy was stored under another number.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit.limited_log import LimitedLog
from edgeexit.policies import PolicyDocument, decode_document
from edgeexit.policies.document import MAX_REVISION
from edgeexit_calibration.recalibrate.audit_rate import needs_more_audits
from edgeexit_calibration.recalibrate.audits import Audits
from edgeexit_calibration.recalibrate.cohort_rules import RecalibrationOptions, rules_of
from edgeexit_calibration.recalibrate.found_devices import store_found
from edgeexit_calibration.recalibrate.guarantee import (
    COMPARED_AUDITS,
    Guarantee,
    History,
    PolicyChange,
    advance,
    begin,
    within_bounds,
)
from edgeexit_calibration.recalibrate.guarantee_codec import Snapshot
from edgeexit_calibration.recalibrate.guarantee_rules import NO_GAIN, GuaranteeRules
from edgeexit_calibration.recalibrate.measured_costs import MeasuredCosts
from edgeexit_calibration.recalibrate.policy_changes import (
    CurrentPolicy,
    counted_changes,
    store_change,
    store_postponement,
    store_usual_audits,
)
from edgeexit_calibration.recalibrate.recent_audits import RecentAudits
from edgeexit_calibration.recalibrate.renumbering import renumber
from edgeexit_calibration.recalibrate.settled_samples import SettledSamples
from edgeexit_calibration.recalibrate.stored_audits import AuditReader
from edgeexit_calibration.recalibrate.stored_guarantees import read_guarantee, write_guarantee
from edgeexit_calibration.recalibrate.used_revisions import ALL_REVISIONS, UsedRevisions
from edgeexit_calibration.store.cohorts import (
    CohortAddress,
    comparable_revisions,
    current_revision,
    locked_cohort,
    registered_cohorts,
)
from edgeexit_calibration.store.database import Database, DatabaseError
from edgeexit_calibration.store.leases import LeaseLostError
from edgeexit_calibration.store.tables import AuditedSampleRow, CohortRow, PolicyRevisionRow, RegistrationRow

_log = logging.getLogger(__name__)

_CHUNK: Final = 5000
"""Audits of a cohort that are in memory at the same time."""
_MAX_AUDITS: Final = 25_000
"""About so many audits of a cohort are used in one check; further ones follow in the next, so no cohort waits long."""
_SAVE_INTERVAL: Final = timedelta(minutes=5)
_FOUND_INTERVAL: Final = timedelta(hours=1)
"""Time after which devices are stored again that are far from the others: there may be room for them now."""


class _WatchedCohort(msgspec.Struct, kw_only=True):
    """What is in memory of a cohort."""

    current: CurrentPolicy
    state: Guarantee
    reader: RecentAudits
    read_until: int
    """Highest id up to which all audits were read."""
    saved: Guarantee | None = None
    """The state in the database."""
    saved_at: datetime
    is_stuck: bool = False
    """Whether the policy exceeds its risk and no revision is left."""
    found: frozenset[int] = frozenset()
    """Devices that are far from the others."""
    found_at: datetime
    """When they were stored last."""
    checked_bounds: tuple[bool, float] | None = None
    """`frozen` and `min_final_exits` of the rules under which the policy in force was last compared with them."""

    def follow(self, document: PolicyDocument, state: Guarantee, now: datetime) -> None:
        """Continue with the next revision, which was stored with the state after it."""
        self.current = self.current._replace(document=document)
        self.reader = self.reader.following(document.revision, state.used_revisions)
        self.state = self.saved = state
        self.saved_at = now


class Watcher:
    """Watches the cohorts of a fleet, and changes their policies.

    Args:
        database: contains the audits and receives the new revisions.
        fleet: the fleet whose cohorts are watched.
        options: how policies are changed.

    """

    def __init__(self, database: Database, *, fleet: str, options: RecalibrationOptions) -> None:
        self._database = database
        self._fleet = fleet
        self._options = options
        self._repeats = LimitedLog(_log)
        self._watched: dict[int, _WatchedCohort] = {}
        self._settled = SettledSamples()
        self._costs = MeasuredCosts(database, options.enrolment)

    def check(self, *, now: datetime) -> None:
        """Check every cohort once. An error in one cohort is logged, and the others are still checked.

        Raises DatabaseError and LeaseLostError; the next check repeats everything that was not committed.
        """
        with self._database.reading() as session:
            cohorts = registered_cohorts(session, self._fleet)
            settled = self._settled.highest(session)
        for cohort_id, address in cohorts:
            self._check_and_log(cohort_id, address, settled, now)

    def save(self, *, now: datetime) -> None:
        """Store the states that have changed since they were stored. Raises DatabaseError and LeaseLostError."""
        for watched in self._watched.values():
            self._save(watched, now)

    def _check_and_log(self, cohort_id: int, address: CohortAddress, settled: int, now: datetime) -> None:
        """Check a cohort; log its error, unless it concerns all cohorts."""
        try:
            self._check_cohort(cohort_id, address, settled, now)
        except (DatabaseError, LeaseLostError):
            raise
        except Exception as error:  # noqa: BLE001 - an error of one cohort must not stop the others
            self._repeats.warning(address, "%s: the check failed: %s: %s", address, type(error).__name__, error)

    def _check_cohort(self, cohort_id: int, address: CohortAddress, settled: int, now: datetime) -> None:
        with self._database.reading() as session:
            row = current_revision(session, cohort_id)
            cohort = session.get_one(CohortRow, cohort_id)
            needs_higher_number = row is not None and cohort.highest_unknown_revision >= row.revision
        if needs_higher_number:
            renumber(self._database, cohort_id, address, repeats=self._repeats, now=now)
        self._costs.refresh(cohort_id, now=now)
        with self._database.reading() as session:
            watched = self._refreshed(session, cohort_id, address, now)
        if watched is None or watched.is_stuck:
            return
        if watched.saved is None:
            self._save(watched, now)
        self._keep_bounds(watched, now)
        used = 0
        while used < _MAX_AUDITS and (more := self._advance(watched, settled, now)):
            used += more
        self._end_raised_audits(watched, now)
        if now - watched.saved_at >= _SAVE_INTERVAL:
            self._save(watched, now)

    def _refreshed(
        self, session: Session, cohort_id: int, address: CohortAddress, now: datetime
    ) -> _WatchedCohort | None:
        """Return what is in memory of a cohort, in accordance with its current revision and registration."""
        registration, row = session.get_one(RegistrationRow, cohort_id), current_revision(session, cohort_id)
        if row is None:
            return None
        rules = rules_of(session, registration, self._options, now=now)
        watched = self._watched.get(cohort_id)
        if (
            watched is None
            or watched.current.document.revision != row.revision
            or not _is_same(watched.current.rules, rules)
        ):
            document = decode_document(row.document.encode())
            watched = self._loaded(session, CurrentPolicy(cohort_id, address, document, rules), now)
            self._watched[cohort_id] = watched
        watched.current = watched.current._replace(rules=rules)
        return watched

    def _loaded(self, session: Session, current: CurrentPolicy, now: datetime) -> _WatchedCohort:
        """Return a cohort with the state that is in memory or in the database, or with a new one.

        The state in the database is the newer one if another process has changed the policy since.
        """
        cohort_id, _, document, rules = current
        known, saved, saved_at = self._watched.get(cohort_id), None, now
        stored = read_guarantee(session, cohort_id)
        if (
            known is not None
            and known.state.policy == document.policy
            and _is_same(known.current.rules, rules)
            and (stored is None or stored.revision <= known.current.document.revision)
        ):
            state = known.state
        elif stored is not None and _is_same(stored.rules, rules):
            state = saved = stored.state
            saved_at = stored.updated_at
        else:
            newest = session.scalar(select(func.max(AuditedSampleRow.id))) or 0
            used = _used_from_the_beginning(session, cohort_id, document.revision)
            state = begin(document.policy, rules, last=newest, used_revisions=used)
        revisions = comparable_revisions(session, cohort_id, document.policy)
        reader = AuditReader(cohort_id, document.policy, revisions, state.used_revisions, loss=rules.loss)
        return _WatchedCohort(
            current=current,
            state=state,
            reader=RecentAudits(reader, keep=COMPARED_AUDITS),
            read_until=state.last,
            saved=saved,
            saved_at=saved_at,
            found_at=now,
        )

    def _keep_bounds(self, watched: _WatchedCohort, now: datetime) -> None:
        """Replace a policy that is outside bounds which a user has set since; later, `advance` does so."""
        rules = watched.current.rules
        bounds = rules.frozen, rules.min_final_exits
        if watched.checked_bounds == bounds or watched.current.document.revision == MAX_REVISION:
            return
        state, change = within_bounds(watched.state, self._history(watched), rules)
        if change is None or self._put_in_force(watched, state, change, now):
            watched.checked_bounds = bounds

    def _advance(self, watched: _WatchedCohort, settled: int, now: datetime) -> int:
        """Use the next audits, up to the next change of the policy; return how many, or 0 if this check is to end.

        After an alarm it ends, because the next step publishes the policy.
        """
        with self._database.reading() as session:
            after = max(watched.state.last, watched.read_until)
            audits = watched.reader.oldest(session, after=after, until=settled, limit=_CHUNK)
            if not len(audits.ids):
                watched.read_until = max(after, settled)
                return 0
            changes = counted_changes(session, watched.current.cohort_id, now=now)
        rules, is_last_revision = watched.current.rules, watched.current.document.revision == MAX_REVISION
        if changes >= rules.max_changes_per_day:
            rules = msgspec.structs.replace(rules, min_gain=NO_GAIN)
        if is_last_revision:
            rules = msgspec.structs.replace(rules, frozen=True)
        state, change = advance(watched.state, audits, self._history(watched), rules)
        self._store_found(watched, state, now)
        if change is None:
            watched.state = state
            return len(audits.ids)
        if is_last_revision:
            store_postponement(self._database, watched.current, change, now=now)
            watched.is_stuck = True
            return 0
        if not self._put_in_force(watched, state, change, now):
            return 0
        return 0 if change.alarm is not None else len(audits.ids) - len(audits.after(state.last).ids)

    def _store_found(self, watched: _WatchedCohort, state: Guarantee, now: datetime) -> None:
        """Store which devices are far from the others: new ones at once, and all of them again after a time."""
        far = state.comparison.far
        found = frozenset(one.device for one in far)
        if found and (found - watched.found or now - watched.found_at >= _FOUND_INTERVAL):
            store_found(self._database, watched.current.cohort_id, far, self._options.enrolment, now=now)
            watched.found_at = now
        watched.found = found

    def _history(self, watched: _WatchedCohort) -> History:
        def history(first: int, last: int, limit: int) -> Audits:
            with self._database.reading() as session:
                return watched.reader.newest(session, first=first, last=last, limit=limit)

        return history

    def _put_in_force(self, watched: _WatchedCohort, state: Guarantee, change: PolicyChange, now: datetime) -> bool:
        """Store a change and the state after it; return False if a user has registered another policy meanwhile."""
        raised = self._options.audit_fraction_after_alarm
        stored = store_change(self._database, watched.current, change, state, audit_fraction=raised, now=now)
        if stored is None:
            return False  # the next check reads it
        if change.alarm is not None:
            watched.found = frozenset()
        watched.follow(stored.document, stored.state, now)
        return True

    def _end_raised_audits(self, watched: _WatchedCohort, now: datetime) -> None:
        """Take back a raised audit fraction that is not useful any more, if no bolder policy has done it."""
        current, state = watched.current, watched.state
        if current.document.audit is None or current.document.revision == MAX_REVISION:
            return
        if not needs_more_audits(state, current.rules):
            document = store_usual_audits(self._database, current, state, now=now)
            if document is not None:
                watched.follow(document, state, now)

    def _save(self, watched: _WatchedCohort, now: datetime) -> None:
        """Store the state of a cohort if it has changed, unless its policy was replaced meanwhile."""
        if watched.state is watched.saved:
            return
        cohort_id, _, document, rules = watched.current
        with self._database.writing() as session:
            locked_cohort(session, cohort_id)
            row = current_revision(session, cohort_id)
            if row is not None and row.revision == document.revision:
                write_guarantee(session, cohort_id, document.revision, Snapshot(watched.state, rules), now=now)
        watched.saved, watched.saved_at = watched.state, now


def _used_from_the_beginning(session: Session, cohort_id: int, revision: int) -> UsedRevisions:
    """Return what is used of a guarantee that begins anew with a revision.

    The audits of all revisions if it is the cohort's first one, and otherwise only those of this one and later ones:
    others can have been drawn before a change that an earlier guarantee of the cohort has found.
    """
    earlier = select(PolicyRevisionRow.revision).filter_by(cohort_id=cohort_id)
    if session.scalar(earlier.where(PolicyRevisionRow.revision < revision).limit(1)) is None:
        return ALL_REVISIONS
    return UsedRevisions(lowest=revision, lowest_after=revision)


def _is_same(rules: GuaranteeRules, other: GuaranteeRules) -> bool:
    """Return True if the same is guaranteed; costs and the options of the service may differ."""
    return (rules.loss, rules.risk, rules.delta) == (other.loss, other.risk, other.delta)
