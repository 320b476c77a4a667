"""Stores the messages of devices: decodes them, drops duplicates, writes a batch in one session. Needs no MQTT client.

Reports are cumulative, so only the highest sequence of each (device, start, revision) is stored. An audit is
stored once per (device, start, sequence). So the rows do not depend on the order of messages, nor on duplicates.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import log
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import insert, select, tuple_
from sqlalchemy.orm import Session

from edgeexit.errors import MessageError
from edgeexit.latency import LatencyProfile
from edgeexit.policies.document import MAX_REVISION
from edgeexit.policies.readout import readouts_to_bytes
from edgeexit.wire import UP_TYPES, Audit, DeviceAddress, Report, State, decode, parse_up_topic
from edgeexit.wire.audit_signing import verify_audit
from edgeexit_calibration.cohorts import CohortAddress, current_revision, find_or_add_cohort
from edgeexit_calibration.tables import AuditedSampleRow, AuditRow, CohortRow, DeviceRow, ProfileRow, ReportRow

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CLASS_LIMIT: Final = 2**24
"""Readouts are float32, which represents class indices exactly below this limit."""
_MAX_ENTROPY: Final = log(_CLASS_LIMIT)
_MAX_REVISIONS_AHEAD: Final = 1_000_000
"""A reported revision that is further ahead is ignored, so that no device can exhaust the revision numbers."""


class Uplink(NamedTuple):
    """A valid message of a device, and the device's address."""

    address: DeviceAddress
    message: State | Report | Audit | LatencyProfile


class Receipt(NamedTuple):
    """The sequence numbers of a device's messages to acknowledge after the commit, duplicates included."""

    address: DeviceAddress
    start: str
    sequences: tuple[int, ...]


def decode_uplink(topic: str, payload: bytes) -> Uplink:
    """Return the decoded message with the device's address. Raises MessageError for an invalid topic or payload."""
    address, kind = parse_up_topic(topic)
    expected: Any = UP_TYPES[kind]
    message: State | Report | Audit | LatencyProfile
    if kind == "audit":
        _, message = verify_audit(payload, topic=topic)
    else:
        message = decode(payload, expected)
    if isinstance(message, LatencyProfile) and not _DIGEST.fullmatch(message.bundle):
        raise MessageError(f"profile: bundle '{message.bundle[:80]}' is not a digest of 64 hex digits")
    if isinstance(message, Audit):
        _check_fits_float32(message)
    return Uplink(address, message)


def store_uplinks(session: Session, uplinks: Sequence[Uplink], *, now: datetime) -> list[Receipt]:
    """Write a batch in its order of arrival; return one receipt per device and start."""
    devices = _find_or_add_devices(session, {uplink.address for uplink in uplinks}, now)
    cohorts = _CohortCache(session)
    sequences: dict[tuple[DeviceAddress, str], dict[int, None]] = {}  # per start, an ordered set
    reports: list[tuple[DeviceRow, Report]] = []
    audits: list[tuple[DeviceRow, Audit]] = []
    for address, message in uplinks:
        device = devices[address]
        if isinstance(message, State):
            cohorts.record_unknown_revision(device, message)
            _store_state(device, message, now)
        elif isinstance(message, LatencyProfile):
            _store_profile(session, device, message, now)
        else:
            cohorts.record_unknown_revision(device, message)
            sequences.setdefault((address, message.start), {})[message.sequence] = None
            if isinstance(message, Report):
                reports.append((device, message))
            else:
                audits.append((device, message))
    _store_reports(session, cohorts, reports, now)
    _store_audits(session, cohorts, audits, now)
    return [Receipt(address, start, tuple(sent)) for (address, start), sent in sequences.items()]


def _check_fits_float32(audit: Audit) -> None:
    for sample in audit.samples:
        highest = max(*sample.top1, sample.prediction or 0)
        if highest >= _CLASS_LIMIT or max(sample.entropy) > _MAX_ENTROPY:
            raise MessageError(
                f"audit: class {highest} or entropy {max(sample.entropy):g} is too large for a readout in float32"
            )


class _CohortCache:
    """Reads each cohort of a batch and its current revision from the database, once per batch."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._found: dict[CohortAddress, tuple[CohortRow, int]] = {}

    def id_of(self, device: DeviceRow, message: Report | Audit) -> int:
        return self._find(device, message)[0].id

    def record_unknown_revision(self, device: DeviceRow, message: State | Report | Audit) -> None:
        """Record the revision that a device runs if this database did not issue it.

        Such a revision is higher than the newest one in the database. Or it has the same number, and the device has
        rejected the policy of this database.
        """
        cohort, newest = self._find(device, message)
        rejected = message.rejected.revision if isinstance(message, State) and message.rejected is not None else None
        is_unknown = message.revision > newest or (message.revision == newest == rejected)
        # Above the last revision there is no number to publish this database's policy under.
        if is_unknown and message.revision < min(newest + _MAX_REVISIONS_AHEAD + 1, MAX_REVISION):
            cohort.highest_unknown_revision = max(cohort.highest_unknown_revision, message.revision)

    def _find(self, device: DeviceRow, message: State | Report | Audit) -> tuple[CohortRow, int]:
        address = CohortAddress(device.fleet, message.bundle, message.cohort)
        if address not in self._found:
            cohort = find_or_add_cohort(self._session, address)
            current = current_revision(self._session, cohort.id)
            self._found[address] = (cohort, 0 if current is None else current.revision)
        return self._found[address]


def _find_or_add_devices(
    session: Session, addresses: Iterable[DeviceAddress], now: datetime
) -> dict[DeviceAddress, DeviceRow]:
    requested = set(addresses)
    key = tuple_(DeviceRow.fleet, DeviceRow.shard, DeviceRow.device)
    found = session.scalars(select(DeviceRow).where(key.in_(list(requested))))
    devices = {DeviceAddress(device.fleet, device.shard, device.device): device for device in found}
    for address in requested - devices.keys():
        devices[address] = DeviceRow(**address._asdict(), first_seen=now, last_seen=now)
        session.add(devices[address])
    session.flush()
    return devices


def _store_state(device: DeviceRow, state: State, now: datetime) -> None:
    if not state.online and device.state is not None:
        known = msgspec.json.decode(device.state, type=State)
        if known.start == state.start:  # an MQTT will repeats the state at connect time; only `online` is new
            state = msgspec.structs.replace(known, online=False)
    content = _json(state)
    if content != device.state:
        device.state = content
        device.last_seen = now


def _store_profile(session: Session, device: DeviceRow, profile: LatencyProfile, now: datetime) -> None:
    content = _json(profile)
    row = session.get(ProfileRow, (device.id, profile.bundle))
    if row is None:
        session.add(ProfileRow(device_id=device.id, bundle=profile.bundle, content=content, received_at=now))
    elif row.content != content:
        row.content, row.received_at = content, now
    else:
        return
    device.last_seen = now


def _store_reports(
    session: Session, cohorts: _CohortCache, reports: Sequence[tuple[DeviceRow, Report]], now: datetime
) -> None:
    newest: dict[tuple[int, str, int], tuple[DeviceRow, Report]] = {}
    for device, report in reports:
        key = (device.id, report.start, report.revision)
        if key not in newest or report.sequence > newest[key][1].sequence:
            newest[key] = (device, report)
    columns = tuple_(ReportRow.device_id, ReportRow.start, ReportRow.revision)
    found = session.scalars(select(ReportRow).where(columns.in_(list(newest))))
    rows = {(row.device_id, row.start, row.revision): row for row in found}
    for key, (device, report) in newest.items():
        cohort_id = cohorts.id_of(device, report)
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


def _store_audits(
    session: Session, cohorts: _CohortCache, audits: Sequence[tuple[DeviceRow, Audit]], now: datetime
) -> None:
    new: dict[tuple[int, str, int], tuple[DeviceRow, Audit]] = {}
    for device, audit in audits:
        new.setdefault((device.id, audit.start, audit.sequence), (device, audit))
    columns = (AuditRow.device_id, AuditRow.start, AuditRow.sequence)
    for key in session.execute(select(*columns).where(tuple_(*columns).in_(list(new)))):
        del new[key[0], key[1], key[2]]
    rows = [AuditRow(device_id=key[0], start=key[1], sequence=key[2], received_at=now) for key in new]
    session.add_all(rows)
    session.flush()
    samples: list[dict[str, object]] = []
    for row, (device, audit) in zip(rows, new.values(), strict=True):
        samples += _sample_rows(audit, row.id, cohorts.id_of(device, audit))
        device.last_seen = now
    if samples:
        session.execute(insert(AuditedSampleRow), samples)


def _sample_rows(audit: Audit, audit_id: int, cohort_id: int) -> Iterable[dict[str, object]]:
    for sample in audit.samples:
        yield {
            "audit_id": audit_id,
            "cohort_id": cohort_id,
            "revision": audit.revision,
            "exits": len(sample.top1),
            "exit": sample.exit,
            "disagrees": sample.disagrees,
            "label": sample.label,
            "readouts": readouts_to_bytes(sample.readouts()),
        }


def _json(message: msgspec.Struct) -> str:
    return msgspec.json.encode(message).decode()
