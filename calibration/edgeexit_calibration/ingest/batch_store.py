"""Stores a batch of messages of devices in one transaction. Needs no MQTT client.

Reports are cumulative, and the samples of an audit are stored once. So what the database contains afterwards does not
depend on the order of messages, nor on duplicates, nor on how they are divided into batches.

What most messages need (devices, cohorts, the newest reports, the newest buckets) is in memory. It is what the last
committed transaction left behind. So after a transaction that failed, whose commit is uncertain, or after which another
process may have stored messages of the same devices, it is forgotten.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from edgeexit.latency import LatencyProfile
from edgeexit.wire import Audit, DeviceAddress, Refusal, State
from edgeexit.wire.counter_array import PER_EXIT
from edgeexit_calibration.ingest.audit_check import AuditToCheck, impossible_audits, wrong_task
from edgeexit_calibration.ingest.audit_store import AcceptedAudit, store_audits
from edgeexit_calibration.ingest.bulk_write import driver_value, table_of, update_rows
from edgeexit_calibration.ingest.device_record import DeviceRecord, locked_records, write_records
from edgeexit_calibration.ingest.drops import Drop, DropCause
from edgeexit_calibration.ingest.enrolment import REVOKED, check_key
from edgeexit_calibration.ingest.known_cohorts import KnownCohort, KnownCohorts
from edgeexit_calibration.ingest.known_devices import KnownDevice, KnownDevices
from edgeexit_calibration.ingest.known_policies import KnownPolicies
from edgeexit_calibration.ingest.profile_store import store_profile
from edgeexit_calibration.ingest.receipts import Receipt, Stored
from edgeexit_calibration.ingest.report_head import ReportHead
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.ingest.sample_arrays import arrays_of
from edgeexit_calibration.ingest.series_store import AcceptedReport, SeriesStore
from edgeexit_calibration.ingest.state_store import AcceptedState, store_losses, store_states, store_troubles
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.tables import DeviceRow

_DEVICES: Final = table_of(DeviceRow)
_LAST_SEEN_BEHIND: Final = timedelta(seconds=60)
"""Reports update the time at which a device was last seen when it is so far behind."""
_TOO_MANY_COHORTS: Final = "the fleet has its maximum number of cohorts that are not registered"


class BatchStore:
    """Stores batches of messages. Only one thread may use it.

    No other process may store messages of the same devices, unless `forget` is called before the next batch.

    Args:
        rules: which devices and which audits are stored.

    """

    def __init__(self, rules: IngestRules) -> None:
        self._rules = rules
        self._devices = KnownDevices(rules)
        self._cohorts = KnownCohorts(rules.quotas.max_unregistered_cohorts)
        self._policies = KnownPolicies()
        self._series = SeriesStore()

    def forget(self) -> None:
        """Read everything again from the database: the last transaction was not committed, or another process wrote."""
        self._devices.forget()
        self._cohorts.forget()
        self._policies.forget()
        self._series.forget()

    def store(self, session: Session, uplinks: Sequence[Uplink], *, now: datetime) -> Stored:
        """Write a batch; call `forget` if the transaction is not committed."""
        self._cohorts.begin()
        addresses = dict.fromkeys([uplink.address for uplink in uplinks])
        connection = session.connection()
        devices = self._devices.find(connection, addresses, now=now)
        records = locked_records(connection, _to_lock(uplinks, devices))
        batch = _Batch(session, self._rules, self._cohorts, devices, records, now=now)
        for uplink in uplinks:
            batch.take(uplink)
        batch.check_audits(self._policies)
        for device, states in batch.states.values():
            record = records[device.id]
            store_states(session, record, states, now=now)
            self._devices.decide(device, record.key, record.revoked_at, record.clone_seen_at)
        newest, expired = self._series.store(connection, batch.reports, now=now)
        written = store_audits(connection, batch.audits, now=now)
        batch.drops += expired
        profiled = self._store_profiles(session, batch.profiles, now=now)
        self._update_devices(connection, batch, newest, written, profiled, now=now)
        for record in records.values():
            store_troubles(record, now=now)
        write_records(connection, list(records.values()))
        self._cohorts.write_claims(session)
        return batch.outcome()

    def _store_profiles(
        self, session: Session, profiles: Sequence[tuple[KnownDevice, LatencyProfile]], *, now: datetime
    ) -> list[KnownDevice]:
        """Write profiles; return the devices whose profiles have changed."""
        limit = self._rules.quotas.profiles
        return [
            device for device, profile in profiles if store_profile(session, device.id, profile, limit=limit, now=now)
        ]

    def _update_devices(
        self,
        connection: Connection,
        batch: "_Batch",
        reports: Sequence[AcceptedReport],
        audits: Sequence[AcceptedAudit],
        profiled: Sequence[KnownDevice],
        *,
        now: datetime,
    ) -> None:
        """Write what reports, audits and profiles change in the rows of devices."""
        samples = {device.id: 0 for device in profiled}
        for device, _, audit, _ in audits:
            samples[device.id] = samples.get(device.id, 0) + len(audit.samples)
            device.last_seen = now
        for device, _, report, _ in reports:
            if now - device.last_seen >= _LAST_SEEN_BEHIND:
                device.last_seen = now
                samples.setdefault(device.id, 0)
            if report.losses != device.losses:
                store_losses(batch.records[device.id], report.losses, now=now)
                device.losses = report.losses
        for number in samples.keys() & batch.records.keys():
            batch.records[number].last_seen = now  # they are written later
        seen = driver_value(now, connection.dialect)
        rows = [(seen, count, number) for number, count in samples.items()]
        update_rows(connection, _DEVICES, ("id",), ("last_seen", "+audited_samples"), rows)


class _UncheckedAudit(NamedTuple):
    """An audit that may be stored, unless it is impossible."""

    uplink: Uplink
    cohort: KnownCohort
    accepted: AcceptedAudit


class _Batch:
    """What the messages of a batch want to be stored, and the answers to them."""

    def __init__(
        self,
        session: Session,
        rules: IngestRules,
        cohorts: KnownCohorts,
        devices: dict[DeviceAddress, KnownDevice],
        records: dict[int, DeviceRecord],
        *,
        now: datetime,
    ) -> None:
        self.records = records
        self.states: dict[int, tuple[KnownDevice, list[AcceptedState]]] = {}
        self.reports: list[AcceptedReport] = []
        self.audits: list[AcceptedAudit] = []
        self.profiles: list[tuple[KnownDevice, LatencyProfile]] = []
        self.drops: list[Drop] = []
        self._session = session
        self._rules = rules
        self._cohorts = cohorts
        self._devices = devices
        self._now = now
        self._unchecked: list[_UncheckedAudit] = []
        self._sequences: dict[tuple[DeviceAddress, str], list[int]] = {}
        self._refused: dict[tuple[DeviceAddress, str], dict[int, Refusal]] = {}

    def take(self, uplink: Uplink) -> None:
        """Decide what is stored of a message, and what is answered."""
        message, device = uplink.message, self._devices.get(uplink.address)
        if device is None:
            limit = self._rules.quotas.max_devices
            self.drops.append(Drop(uplink.address, "too many devices", f"the fleet has {limit} devices"))
        elif isinstance(message, ReportHead):
            counts = uplink.counts
            if counts is None:
                raise ValueError("the counters of a report must be converted first")
            cohort = self._accept(uplink, device, message, len(counts) // PER_EXIT)
            if cohort is not None:
                self._acknowledge(uplink, message)
                self.reports.append(AcceptedReport(device, cohort.id, message, counts))
        elif isinstance(message, Audit):
            cohort = self._accept(uplink, device, message, len(message.samples[0].top1))
            other = None if cohort is None else wrong_task(cohort.task, message)
            if other is not None:
                self._refuse(uplink, message, "invalid", other, final=True)
            elif cohort is not None:
                accepted = AcceptedAudit(device, cohort.id, message, arrays_of(message.samples))
                self._unchecked.append(_UncheckedAudit(uplink, cohort, accepted))
        elif isinstance(message, State):
            cohort = self._cohort_of(uplink, message)
            if cohort is not None:
                _, states = self.states.setdefault(device.id, (device, []))
                states.append(AcceptedState(cohort.id, message, uplink.retained))
        else:
            self.profiles.append((device, message))

    def check_audits(self, policies: KnownPolicies) -> None:
        """Refuse the audits that no honest device can have sent; the others are to be stored."""
        to_check = [self._to_check(accepted, cohort, policies) for _, cohort, accepted in self._unchecked]
        reasons = impossible_audits(to_check)
        for place, (uplink, _, accepted) in enumerate(self._unchecked):
            reason = reasons.get(place)
            if reason is None:
                self._acknowledge(uplink, accepted.audit)
                self.audits.append(accepted)
            else:
                self._refuse(uplink, accepted.audit, "impossible audit", reason, final=True)

    def outcome(self) -> Stored:
        """Return the answers to all messages so far."""
        receipts = [
            Receipt(address, start, tuple(numbers if len(numbers) == 1 else dict.fromkeys(numbers)))
            for (address, start), numbers in self._sequences.items()
        ]
        receipts += [
            Receipt(address, start, (), tuple(refused.values())) for (address, start), refused in self._refused.items()
        ]
        return Stored(receipts, self.drops)

    def _accept(
        self, uplink: Uplink, device: KnownDevice, message: ReportHead | Audit, exits: int
    ) -> KnownCohort | None:
        """Return the cohort of a message that may be stored; None if it is refused or not answered."""
        if device.revoked:
            self._refuse(uplink, message, "revoked", REVOKED, final=True)
            return None
        cohort = self._cohort_of(uplink, message)
        if cohort is None:
            self._answer(uplink, message, _TOO_MANY_COHORTS, final=False)
            return None
        if cohort.exits is not None and cohort.exits != exits:
            self._refuse(uplink, message, "invalid", f"{exits} exits, but the bundle has {cohort.exits}", final=True)
            return None
        if uplink.key is not None and uplink.key != device.key:
            record = self.records[device.id]
            reason = check_key(self._session, record, uplink.key, self._rules.enrolment, self._now)
            device.key = record.key
            if reason is not None:
                self._refuse(uplink, message, "key not approved", reason, final=False)
                return None
        return cohort

    def _acknowledge(self, uplink: Uplink, message: ReportHead | Audit) -> None:
        key = (uplink.address, message.start)
        sequences = self._sequences.get(key)
        if sequences is None:
            self._sequences[key] = [message.sequence]
        else:
            sequences.append(message.sequence)

    def _to_check(self, accepted: AcceptedAudit, cohort: KnownCohort, policies: KnownPolicies) -> AuditToCheck:
        """Return an audit with the policy that it names, and the number of classes that the newest policy names."""
        revision, samples = accepted.audit.revision, accepted.samples
        newest = policies.find(self._session, cohort, cohort.newest)
        policy = policies.find(self._session, cohort, revision)
        if policy is not None and policy.exits != samples.readouts.shape[1]:
            policy = None
        return AuditToCheck(samples, None if newest is None else newest.classes, revision, policy)

    def _cohort_of(self, uplink: Uplink, message: State | ReportHead | Audit) -> KnownCohort | None:
        """Return the cohort that a message names; None if there are too many."""
        cohort = self._cohorts.find(self._session, uplink.address.fleet, message)
        if cohort is None:
            detail = f"{_TOO_MANY_COHORTS} ({self._cohorts.max_unregistered})"
            self.drops.append(Drop(uplink.address, "too many cohorts", detail))
        return cohort

    def _refuse(
        self, uplink: Uplink, message: ReportHead | Audit, cause: DropCause, reason: str, *, final: bool
    ) -> None:
        self._answer(uplink, message, reason, final=final)
        self.drops.append(Drop(uplink.address, cause, reason))

    def _answer(self, uplink: Uplink, message: ReportHead | Audit, reason: str, *, final: bool) -> None:
        refusal = Refusal(sequence=message.sequence, reason=reason, final=final)
        self._refused.setdefault((uplink.address, message.start), {})[message.sequence] = refusal


def _to_lock(uplinks: Sequence[Uplink], devices: dict[DeviceAddress, KnownDevice]) -> set[int]:
    """Return the ids of the devices whose messages may change more than a time and a count."""
    numbers: set[int] = set()
    for address, message, key, *_ in uplinks:
        device = devices.get(address)
        if device is None:
            continue
        if isinstance(message, ReportHead):
            if message.losses != device.losses:
                numbers.add(device.id)
        elif isinstance(message, State) or (isinstance(message, Audit) and key is not None and key != device.key):
            numbers.add(device.id)
    return numbers
