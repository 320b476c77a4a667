"""What devices send, into the database: decode, drop duplicates, write a batch in one transaction. Knows no MQTT.

Reports are cumulative, so the highest sequence of each (device, outbox, boot, revision) stays; audits count once per
(device, outbox, sequence). Hence any order and any number of copies of the same messages gives the same rows.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import log
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import insert, select, tuple_
from sqlalchemy.orm import Session

from edgeexit.errors import MessageError
from edgeexit.latency import LatencyProfile
from edgeexit.wire import UP_TYPES, DeviceAddress, State, decode, parse_up_topic
from edgeexit.wire import Audit as AuditMessage
from edgeexit.wire import Report as ReportMessage
from edgeexit_calibration.cohorts import CohortAddress, current_revision, find_or_add_cohort
from edgeexit_calibration.tables import Audit, AuditedSample, Cohort, Device, Profile, Report

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CLASS_LIMIT: Final = 2**24
"""float32, of which readouts are made, holds class indices exactly below it."""
_MAX_ENTROPY: Final = log(_CLASS_LIMIT)
_FARTHEST_AHEAD: Final = 1_000_000
"""No lost database was so many revisions ahead: a device that says so cannot use up the numbers that there are."""


class Uplink(NamedTuple):
    """A message that keeps the wire contract, and who sent it."""

    address: DeviceAddress
    message: State | ReportMessage | AuditMessage | LatencyProfile


class Receipt(NamedTuple):
    """What to acknowledge to a device once the transaction is committed; duplicates are among it."""

    address: DeviceAddress
    outbox: str
    sequences: tuple[int, ...]


def read_uplink(topic: str, payload: bytes) -> Uplink:
    """Return a decoded message. Raises MessageError when topic or payload break the wire contract."""
    address, kind = parse_up_topic(topic)
    expected: Any = UP_TYPES[kind]
    message: State | ReportMessage | AuditMessage | LatencyProfile = decode(payload, expected)
    if isinstance(message, LatencyProfile) and not _DIGEST.fullmatch(message.bundle):
        raise MessageError(f"profile: bundle '{message.bundle[:80]}' is not a digest of 64 hex digits")
    if isinstance(message, AuditMessage):
        _check_fits_float32(message)
    return Uplink(address, message)


def store(session: Session, uplinks: Sequence[Uplink], *, now: datetime) -> list[Receipt]:
    """Write a batch, in its order of arrival; return what to acknowledge after the commit."""
    devices = _find_or_add_devices(session, {uplink.address for uplink in uplinks}, now)
    cohorts = _Cohorts(session)
    sequences: dict[tuple[DeviceAddress, str], dict[int, None]] = {}  # an ordered set a device's outbox
    reports: list[tuple[Device, ReportMessage]] = []
    audits: list[tuple[Device, AuditMessage]] = []
    for address, message in uplinks:
        device = devices[address]
        if isinstance(message, State):
            cohorts.notice(device, message)
            _store_state(device, message, now)
        elif isinstance(message, LatencyProfile):
            _store_profile(session, device, message, now)
        else:
            cohorts.notice(device, message)
            sequences.setdefault((address, message.outbox), {})[message.sequence] = None
            if isinstance(message, ReportMessage):
                reports.append((device, message))
            else:
                audits.append((device, message))
    _store_reports(session, cohorts, reports, now)
    _store_audits(session, cohorts, audits, now)
    return [Receipt(address, outbox, tuple(sent)) for (address, outbox), sent in sequences.items()]


def _check_fits_float32(audit: AuditMessage) -> None:
    for sample in audit.samples:
        highest = max(*sample.top1, sample.prediction or 0)
        if highest >= _CLASS_LIMIT or max(sample.entropy) > _MAX_ENTROPY:
            raise MessageError(
                f"audit: class {highest} or entropy {max(sample.entropy):g} is beyond what a readout holds"
            )


class _Cohorts:
    """The cohorts that a batch names and the revisions that they have, each looked up once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._found: dict[CohortAddress, tuple[Cohort, int]] = {}

    def id_of(self, device: Device, message: ReportMessage | AuditMessage) -> int:
        return self._find(device, message)[0].id

    def notice(self, device: Device, message: State | ReportMessage | AuditMessage) -> None:
        """Remember a revision that this database did not give.

        It is higher than the newest given; or it has that number, and the device refuses the one given here.
        """
        cohort, newest = self._find(device, message)
        refused = message.rejected.revision if isinstance(message, State) and message.rejected is not None else None
        is_foreign = message.revision > newest or (message.revision == newest == refused)
        if is_foreign and message.revision <= newest + _FARTHEST_AHEAD:
            cohort.foreign_revision = max(cohort.foreign_revision, message.revision)

    def _find(self, device: Device, message: State | ReportMessage | AuditMessage) -> tuple[Cohort, int]:
        address = CohortAddress(device.fleet, message.bundle, message.cohort)
        if address not in self._found:
            cohort = find_or_add_cohort(self._session, address)
            current = current_revision(self._session, cohort.id)
            self._found[address] = (cohort, 0 if current is None else current.revision)
        return self._found[address]


def _find_or_add_devices(
    session: Session, addresses: Iterable[DeviceAddress], now: datetime
) -> dict[DeviceAddress, Device]:
    wanted = set(addresses)
    key = tuple_(Device.fleet, Device.shard, Device.device)
    found = session.scalars(select(Device).where(key.in_(list(wanted))))
    devices = {DeviceAddress(device.fleet, device.shard, device.device): device for device in found}
    for address in wanted - devices.keys():
        devices[address] = Device(**address._asdict(), first_seen=now, last_seen=now)
        session.add(devices[address])
    session.flush()
    return devices


def _store_state(device: Device, state: State, now: datetime) -> None:
    if not state.online and device.state is not None:
        known = msgspec.json.decode(device.state, type=State)
        if known.boot == state.boot:  # a will is as old as the connection's begin, and knows only that it ended
            state = msgspec.structs.replace(known, online=False)
    content = _json(state)
    if content != device.state:
        device.state = content
        device.last_seen = now


def _store_profile(session: Session, device: Device, profile: LatencyProfile, now: datetime) -> None:
    content = _json(profile)
    row = session.get(Profile, (device.id, profile.bundle))
    if row is None:
        session.add(Profile(device_id=device.id, bundle=profile.bundle, content=content, received_at=now))
    elif row.content != content:
        row.content, row.received_at = content, now
    else:
        return
    device.last_seen = now


def _store_reports(
    session: Session, cohorts: _Cohorts, reports: Sequence[tuple[Device, ReportMessage]], now: datetime
) -> None:
    newest: dict[tuple[int, str, int, int], tuple[Device, ReportMessage]] = {}
    for device, report in reports:
        key = (device.id, report.outbox, report.boot, report.revision)
        if key not in newest or report.sequence > newest[key][1].sequence:
            newest[key] = (device, report)
    columns = tuple_(Report.device_id, Report.outbox, Report.boot, Report.revision)
    found = session.scalars(select(Report).where(columns.in_(list(newest))))
    rows = {(row.device_id, row.outbox, row.boot, row.revision): row for row in found}
    for key, (device, report) in newest.items():
        cohort_id = cohorts.id_of(device, report)
        row = rows.get(key)
        if row is None:
            row = Report(device_id=key[0], outbox=key[1], boot=key[2], revision=key[3])
            session.add(row)
        elif report.sequence <= row.sequence:
            continue
        row.cohort_id = cohort_id
        row.sequence = report.sequence
        row.content = _json(report)
        row.received_at = now
        device.last_seen = now


def _store_audits(
    session: Session, cohorts: _Cohorts, audits: Sequence[tuple[Device, AuditMessage]], now: datetime
) -> None:
    new: dict[tuple[int, str, int], tuple[Device, AuditMessage]] = {}
    for device, audit in audits:
        new.setdefault((device.id, audit.outbox, audit.sequence), (device, audit))
    columns = (Audit.device_id, Audit.outbox, Audit.sequence)
    for key in session.execute(select(*columns).where(tuple_(*columns).in_(list(new)))):
        del new[key[0], key[1], key[2]]
    rows = [
        Audit(device_id=key[0], outbox=key[1], sequence=key[2], boot=audit.boot, received_at=now)
        for key, (_, audit) in new.items()
    ]
    session.add_all(rows)
    session.flush()
    samples: list[dict[str, object]] = []
    for row, (device, audit) in zip(rows, new.values(), strict=True):
        samples += _sample_rows(audit, row.id, cohorts.id_of(device, audit))
        device.last_seen = now
    if samples:
        session.execute(insert(AuditedSample), samples)


def _sample_rows(audit: AuditMessage, audit_id: int, cohort_id: int) -> Iterable[dict[str, object]]:
    for sample in audit.samples:
        readouts = np.array([sample.top1, sample.p1, sample.p2, sample.entropy], dtype="<f4").T
        yield {
            "audit_id": audit_id,
            "cohort_id": cohort_id,
            "revision": audit.revision,
            "exits": len(sample.top1),
            "exit": sample.exit,
            "disagrees": sample.disagrees,
            "label": sample.label,
            "readouts": readouts.tobytes(),
        }


def _json(message: msgspec.Struct) -> str:
    return msgspec.json.encode(message).decode()
