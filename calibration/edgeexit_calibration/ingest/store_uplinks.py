"""Stores the messages of devices: drops duplicates, writes a batch in one session. Needs no MQTT client.

Reports are cumulative, so only the highest sequence of each (device, start, revision) is stored. An audit is
stored once per (device, start, sequence). So the rows do not depend on the order of messages, nor on duplicates.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from edgeexit.latency import LatencyProfile
from edgeexit.policies.document import MAX_REVISION
from edgeexit.wire import Audit, DeviceAddress, Refusal, Report, State
from edgeexit_calibration.ingest.audit_store import store_audits
from edgeexit_calibration.ingest.clones import see_start
from edgeexit_calibration.ingest.drops import Drop, DropCause
from edgeexit_calibration.ingest.enrolment import REVOKED, Enrolment, check_key, short_key
from edgeexit_calibration.ingest.quotas import Quotas
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.cohorts import (
    CALIBRATOR,
    CohortAddress,
    add_cohort,
    add_event,
    current_revision,
    find_cohort,
)
from edgeexit_calibration.store.tables import (
    CohortRow,
    DeviceRow,
    ProfileRow,
    RegistrationRow,
    ReportRow,
)

_MAX_REVISIONS_AHEAD: Final = 1_000_000
"""A reported revision that is further ahead is ignored, so that no device can exhaust the revision numbers."""
_TOO_MANY_COHORTS: Final = "the fleet has its maximum number of cohorts that are not registered"
CLONE_SHOWN_FOR: Final = timedelta(days=1)
"""Two agents with one name are reported until they have not been noticed for this time."""


class IngestRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices and which audits are stored."""

    enrolment: Enrolment = "open"
    quotas: Quotas = Quotas()


_DEFAULT_RULES: Final = IngestRules()


class Receipt(NamedTuple):
    """The sequence numbers of a device's messages to acknowledge after the commit, duplicates included."""

    address: DeviceAddress
    start: str
    sequences: tuple[int, ...]
    refused: tuple[Refusal, ...] = ()


class Stored(NamedTuple):
    """The outcome of a batch: one receipt per device and start, and what was not stored."""

    receipts: list[Receipt]
    drops: list[Drop]


def store_uplinks(
    session: Session, uplinks: Sequence[Uplink], *, now: datetime, rules: IngestRules = _DEFAULT_RULES
) -> Stored:
    """Write a batch in its order of arrival."""
    batch = _Batch(session, uplinks, now=now, rules=rules)
    reports: list[tuple[DeviceRow, int, Report]] = []
    audits: list[tuple[DeviceRow, int, Audit]] = []
    for uplink in uplinks:
        device, message = batch.device_of(uplink), uplink.message
        if device is None:
            continue
        if isinstance(message, LatencyProfile):
            _store_profile(session, device, message, now, limit=rules.quotas.profiles)
            continue
        if isinstance(message, State):
            if batch.cohort_of(device, message) is not None:
                _store_state(session, device, message, now, retained=uplink.retained)
            continue
        cohort_id = batch.accept(uplink, device, message)
        if cohort_id is None:
            continue
        if isinstance(message, Report):
            reports.append((device, cohort_id, message))
        else:
            audits.append((device, cohort_id, message))
    _store_reports(session, reports, now)
    store_audits(session, audits, now=now)
    return batch.outcome()


class _Batch:
    """The devices and cohorts of a batch, each read from the database once, and the answers to its messages."""

    def __init__(self, session: Session, uplinks: Sequence[Uplink], *, now: datetime, rules: IngestRules) -> None:
        self._session = session
        self._now = now
        self._rules = rules
        self._devices = _find_or_add_devices(
            session, [uplink.address for uplink in uplinks], now, limit=rules.quotas.max_devices
        )
        self._cohorts: dict[CohortAddress, _Cohort | None] = {}
        self._sequences: dict[tuple[DeviceAddress, str], dict[int, None]] = {}  # per start, an ordered set
        self._refused: dict[tuple[DeviceAddress, str], dict[int, Refusal]] = {}
        self._drops: list[Drop] = []

    def device_of(self, uplink: Uplink) -> DeviceRow | None:
        """Return the device of a message, or None if the fleet has its maximum number of devices without it."""
        device = self._devices.get(uplink.address)
        if device is None:
            limit = self._rules.quotas.max_devices
            self._drops.append(Drop(uplink.address, "too many devices", f"the fleet has {limit} devices"))
        return device

    def cohort_of(self, device: DeviceRow, message: State | Report | Audit) -> "_Cohort | None":
        """Return the cohort that a message names, with an unknown revision recorded; None if there are too many."""
        address = CohortAddress(device.fleet, message.bundle, message.cohort)
        if address not in self._cohorts:
            self._cohorts[address] = _find_or_add_cohort(
                self._session, address, limit=self._rules.quotas.max_unregistered_cohorts
            )
        cohort = self._cohorts[address]
        if cohort is None:
            detail = f"{_TOO_MANY_COHORTS} ({self._rules.quotas.max_unregistered_cohorts})"
            where = DeviceAddress(device.fleet, device.shard, device.device)
            self._drops.append(Drop(where, "too many cohorts", detail))
        else:
            cohort.record_unknown_revision(message)
        return cohort

    def accept(self, uplink: Uplink, device: DeviceRow, message: Report | Audit) -> int | None:
        """Return the id of the cohort of a message that is to be stored; None if it is refused or not answered."""
        if device.revoked_at is not None:
            self._refuse(uplink, message, "revoked", REVOKED, final=True)
            return None
        cohort = self.cohort_of(device, message)
        if cohort is None:
            self._answer(uplink, message, _TOO_MANY_COHORTS, final=False)
            return None
        exits = len(message.exits) if isinstance(message, Report) else len(message.samples[0].top1)
        if cohort.exits not in (None, exits):
            self._refuse(uplink, message, "invalid", f"{exits} exits, but the bundle has {cohort.exits}", final=True)
            return None
        if isinstance(message, Audit) and uplink.key is not None:
            reason = check_key(self._session, device, uplink.key, self._rules.enrolment, self._now)
            if reason is not None:
                self._refuse(uplink, message, "key not approved", reason, final=False)
                return None
        self._sequences.setdefault((uplink.address, message.start), {})[message.sequence] = None
        return cohort.row.id

    def outcome(self) -> Stored:
        """Return the answers to all messages so far."""
        receipts = [
            Receipt(*key, tuple(self._sequences.get(key, ())), tuple(self._refused.get(key, {}).values()))
            for key in {**self._sequences, **self._refused}
        ]
        return Stored(receipts, self._drops)

    def _refuse(self, uplink: Uplink, message: Report | Audit, cause: DropCause, reason: str, *, final: bool) -> None:
        self._answer(uplink, message, reason, final=final)
        self._drops.append(Drop(uplink.address, cause, reason))

    def _answer(self, uplink: Uplink, message: Report | Audit, reason: str, *, final: bool) -> None:
        refusal = Refusal(sequence=message.sequence, reason=reason, final=final)
        self._refused.setdefault((uplink.address, message.start), {})[message.sequence] = refusal


class _Cohort(NamedTuple):
    """A cohort, its newest revision (0: none) and the number of exits of its bundle (None: not registered)."""

    row: CohortRow
    newest: int
    exits: int | None

    def record_unknown_revision(self, message: State | Report | Audit) -> None:
        """Record the revision that a device runs if this database did not issue it.

        Such a revision is higher than the newest one in the database. Or it has the same number, and the device has
        rejected the policy of this database.
        """
        rejected = message.rejected.revision if isinstance(message, State) and message.rejected is not None else None
        is_unknown = message.revision > self.newest or (message.revision == self.newest == rejected)
        if is_unknown and message.revision < min(self.newest + _MAX_REVISIONS_AHEAD + 1, MAX_REVISION):
            self.row.highest_unknown_revision = max(self.row.highest_unknown_revision, message.revision)


def _find_or_add_cohort(session: Session, address: CohortAddress, *, limit: int) -> _Cohort | None:
    row = find_cohort(session, address)
    if row is None:
        unregistered = select(func.count()).select_from(CohortRow).outerjoin(RegistrationRow)
        unregistered = unregistered.where(CohortRow.fleet == address.fleet, RegistrationRow.cohort_id.is_(None))
        if (session.scalar(unregistered) or 0) >= limit:
            return None
        row = add_cohort(session, address)
    current, registration = current_revision(session, row.id), session.get(RegistrationRow, row.id)
    return _Cohort(
        row, 0 if current is None else current.revision, None if registration is None else len(registration.exits)
    )


def _find_or_add_devices(
    session: Session, addresses: Iterable[DeviceAddress], now: datetime, *, limit: int
) -> dict[DeviceAddress, DeviceRow]:
    """Return the devices of these addresses, without those for which the fleet has no room."""
    requested = dict.fromkeys(addresses)
    key = tuple_(DeviceRow.fleet, DeviceRow.shard, DeviceRow.device)
    found = session.scalars(select(DeviceRow).where(key.in_(list(requested))))
    devices = {DeviceAddress(device.fleet, device.shard, device.device): device for device in found}
    if missing := [address for address in requested if address not in devices]:
        count = select(func.count()).select_from(DeviceRow).filter_by(fleet=missing[0].fleet)
        room = max(0, limit - (session.scalar(count) or 0))
        for address in missing[:room]:
            devices[address] = DeviceRow(**address._asdict(), first_seen=now, last_seen=now)
            session.add(devices[address])
        session.flush()
    return devices


def _store_state(session: Session, device: DeviceRow, state: State, now: datetime, *, retained: bool) -> None:
    if state.online and not retained:
        _record_start(session, device, state, now)
    if device.key is None and device.offered_key is None:
        device.offered_key = state.key  # not proven yet, but a user can approve it before the first audit
    if not state.online and device.state is not None:
        known = msgspec.json.decode(device.state, type=State)
        if known.start == state.start:  # an MQTT will repeats the state at connect time; only `online` is new
            state = msgspec.structs.replace(known, online=False)
    content = _json(state)
    if content != device.state:
        device.state = content
        device.last_seen = now


def _record_start(session: Session, device: DeviceRow, state: State, now: datetime) -> None:
    seen = see_start(device.starts, state.start, state.uptime_s)
    device.starts = seen.starts
    if seen.clones is None:
        return
    if device.clone_seen_at is None or now - device.clone_seen_at > CLONE_SHOWN_FOR:
        details = {"starts": list(seen.clones), "key": None if device.key is None else short_key(device.key)}
        add_event(session, None, "clone", details, actor=CALIBRATOR, now=now, device_id=device.id)
    device.clone_starts, device.clone_seen_at = list(seen.clones), now


def _store_profile(session: Session, device: DeviceRow, profile: LatencyProfile, now: datetime, *, limit: int) -> None:
    content = _json(profile)
    rows = session.scalars(select(ProfileRow).filter_by(device_id=device.id).order_by(ProfileRow.received_at)).all()
    row = next((row for row in rows if row.bundle == profile.bundle), None)
    if row is None:
        for oldest in rows[: max(0, len(rows) + 1 - limit)]:
            session.delete(oldest)
        session.add(ProfileRow(device_id=device.id, bundle=profile.bundle, content=content, received_at=now))
        session.flush()
    elif row.content != content:
        row.content, row.received_at = content, now
    else:
        return
    device.last_seen = now


def _store_reports(session: Session, reports: Sequence[tuple[DeviceRow, int, Report]], now: datetime) -> None:
    newest: dict[tuple[int, str, int], tuple[DeviceRow, int, Report]] = {}
    for device, cohort_id, report in reports:
        key = (device.id, report.start, report.revision)
        if key not in newest or report.sequence > newest[key][2].sequence:
            newest[key] = (device, cohort_id, report)
    columns = tuple_(ReportRow.device_id, ReportRow.start, ReportRow.revision)
    found = session.scalars(select(ReportRow).where(columns.in_(list(newest))))
    rows = {(row.device_id, row.start, row.revision): row for row in found}
    for key, (device, cohort_id, report) in newest.items():
        row = rows.get(key)
        if row is None:
            row = ReportRow(device_id=key[0], start=key[1], revision=key[2])
            session.add(row)
        elif report.sequence <= row.sequence:
            continue
        row.cohort_id = cohort_id
        row.sequence = report.sequence
        row.content = _json(report)
        row.received_at = now
        device.last_seen = now
        if (losses := msgspec.to_builtins(report.losses)) != device.losses:
            if any(count > device.losses.get(cause, 0) for cause, count in losses.items()):
                device.losses_at = now
            device.losses = losses


def _json(message: msgspec.Struct) -> str:
    return msgspec.json.encode(message).decode()
