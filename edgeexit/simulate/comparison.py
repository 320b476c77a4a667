"""Compares what simulated devices sent with what the calibrator's database holds. Pure functions.

A message that was acknowledged must be stored. One that was not answered may be stored or not. Everything else is a
difference.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from edgeexit.simulate.ledger import Ledger, SentSeries, SentStart
from edgeexit.simulate.member import FleetMember
from edgeexit.wire import Report
from edgeexit.wire.counter_array import Counts, counts_of_exits

DifferenceKind = Literal["lost", "double", "wrong"]


class SeriesTotals(Protocol):
    """The newest stored report of a (start, revision)."""

    @property
    def sequence(self) -> int:
        """Its sequence number."""

    @property
    def counts(self) -> Counts | None:
        """Its counters [62 K + 1]."""


class AuditTotals(Protocol):
    """Sums over the stored audits of a start."""

    @property
    def audits(self) -> int:
        """Number of audits."""

    @property
    def sequences(self) -> int:
        """Sum of their sequence numbers."""

    @property
    def samples(self) -> int:
        """Number of audited samples."""

    @property
    def exits(self) -> int:
        """Sum over the samples of the index of the exit."""


class DeviceTotals(Protocol):
    """What a database holds of a device."""

    @property
    def start(self) -> str | None:
        """Start in the newest state."""

    @property
    def revision(self) -> int | None:
        """Revision in the newest state."""

    @property
    def online(self) -> bool | None:
        """Whether it is online according to its newest state."""

    @property
    def series(self) -> Mapping[tuple[str, int], SeriesTotals]:
        """(start, revision) -> the newest report."""

    @property
    def buckets(self) -> Mapping[int, Counts]:
        """Revision -> sum of the buckets of time."""

    @property
    def audits(self) -> Mapping[str, AuditTotals]:
        """Start -> sums of its audits."""

    @property
    def drops(self) -> Mapping[str, int]:
        """Cause -> messages that were not stored."""


class FleetTotals(Protocol):
    """What a database holds of a fleet; `edgeexit_calibration.views.stored_totals` returns it."""

    @property
    def devices(self) -> Mapping[str, Any]:
        """SHARD/DEVICE -> `DeviceTotals`."""

    @property
    def cohorts(self) -> Mapping[tuple[str, str], Counts]:
        """(bundle, cohort) -> sum of the buckets."""

    @property
    def drops(self) -> Mapping[str, int]:
        """Cause -> messages of no known device that were not stored."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the database should hold and does not, or the other way round."""

    kind: DifferenceKind
    what: str
    """What differs, the same text for all devices."""
    device: str
    text: str
    """One line for people."""


def compare_fleet(
    ledger: Ledger,
    members: list[FleetMember],
    cohort: tuple[str, str],
    before: FleetTotals,
    after: FleetTotals,
) -> Iterator[Difference]:
    """Yield every difference between what was sent and what was stored since `before`.

    Args:
        ledger: what was sent and answered.
        members: the devices, whose last states were published.
        cohort: bundle and cohort of the devices.
        before: what the database held before the run.
        after: what it holds now.

    """
    by_device: dict[str, list[SentStart]] = {}
    for sent in ledger.starts.values():
        by_device.setdefault(f"{sent.address.shard}/{sent.address.device}", []).append(sent)
    for name, starts in by_device.items():
        if not any(sent.series or sent.audits.audits for sent in starts) and name not in after.devices:
            continue
        stored: DeviceTotals | None = after.devices.get(name)
        if stored is None:
            if any(sent.audits.audits or any(one.acked for one in sent.series.values()) for sent in starts):
                yield Difference(kind="lost", what="device", device=name, text="the device is not in the database")
            continue
        for sent in starts:
            yield from _series_differences(name, sent, stored)
            yield from _audit_differences(name, sent, stored)
        yield from _bucket_differences(name, before.devices.get(name), stored)
    yield from _state_differences(members, after)
    yield from _cohort_differences(ledger, cohort, before, after)


def _series_differences(name: str, sent: SentStart, stored: DeviceTotals) -> Iterator[Difference]:
    for revision, series in sent.series.items():
        what = f"start {sent.start}, revision {revision}"
        found = stored.series.get((sent.start, revision))
        if found is None:
            if series.acked:
                text = f"{what}: report {series.acked} was acknowledged and is not stored"
                yield Difference(kind="lost", what="report", device=name, text=text)
            continue
        if found.sequence < series.acked:
            text = f"{what}: report {found.sequence} is stored, report {series.acked} was acknowledged"
            yield Difference(kind="lost", what="report", device=name, text=text)
            continue
        payload = _payload_of(sent, series, found.sequence)
        if payload is None:
            text = f"{what}: report {found.sequence} is stored, which was not sent or is refused"
            yield Difference(kind="wrong", what="report", device=name, text=text)
        elif found.counts is None or not np.array_equal(found.counts, _counts_of(payload)):
            text = f"{what}: the counters of report {found.sequence} are not those that were sent"
            yield Difference(kind="wrong", what="counters of a report", device=name, text=text)
    for start, revision in stored.series:
        if start == sent.start and revision not in sent.series:
            text = f"start {start}: revision {revision} is stored, of which no report was sent"
            yield Difference(kind="wrong", what="report", device=name, text=text)


def _audit_differences(name: str, sent: SentStart, stored: DeviceTotals) -> Iterator[Difference]:
    expected, found = sent.audits, stored.audits.get(sent.start)
    possible = [message for message in sent.pending.values() if message.series is None]
    audits, samples = (0, 0) if found is None else (found.audits, found.samples)
    most = expected.samples + sum(message.samples for message in possible)
    if audits < expected.audits or samples < expected.samples:
        yield Difference(
            kind="lost",
            what="audits",
            device=name,
            text=f"start {sent.start}: {audits} audits with {samples} samples are stored, {expected.audits} with "
            f"{expected.samples} were acknowledged",
        )
    elif audits > expected.audits + len(possible) or samples > most:
        yield Difference(
            kind="double",
            what="audits",
            device=name,
            text=f"start {sent.start}: {audits} audits with {samples} samples are stored, only "
            f"{expected.audits + len(possible)} with {most} were sent",
        )
    elif not possible and found is not None and (found.sequences, found.exits) != (expected.sequences, expected.exits):
        text = f"start {sent.start}: the numbers or exits of its audits are not those that were sent"
        yield Difference(kind="wrong", what="audits", device=name, text=text)


def _bucket_differences(name: str, before: DeviceTotals | None, stored: DeviceTotals) -> Iterator[Difference]:
    """Compare the buckets with the series of the device, both without what was there before the run."""
    for revision in sorted({one for _, one in stored.series} | set(stored.buckets)):
        grown = _grown(_sum_of_series(before, revision), _sum_of_series(stored, revision))
        counted = _grown(None if before is None else before.buckets.get(revision), stored.buckets.get(revision))
        if _is_equal(grown, counted):
            continue
        samples, reported = _samples(counted), _samples(grown)
        more = samples - reported
        text = f"revision {revision}: its buckets of time count {samples} samples, its reports {reported}"
        kind: DifferenceKind = "wrong" if not more else "double" if more > 0 else "lost"
        yield Difference(kind=kind, what="buckets of time", device=name, text=text)


def _state_differences(members: list[FleetMember], after: FleetTotals) -> Iterator[Difference]:
    for member in members:
        agent = member.agent
        name = f"{agent.sent.address.shard}/{agent.sent.address.device}"
        if agent.sent.role != "device" or not member.has_state or name not in after.devices:
            continue
        stored: DeviceTotals = after.devices[name]
        if (stored.start, stored.revision, stored.online) != (agent.sent.start, agent.revision, False):
            text = (
                f"the newest state has start {agent.sent.start}, revision {agent.revision}, offline; stored is "
                f"{stored.start}, revision {stored.revision}, {'online' if stored.online else 'offline'}"
            )
            yield Difference(kind="wrong", what="state", device=name, text=text)


def _cohort_differences(
    ledger: Ledger, cohort: tuple[str, str], before: FleetTotals, after: FleetTotals
) -> Iterator[Difference]:
    """Compare the buckets of the cohort with those of its devices; clones count in none or in some of them."""
    counted = _grown(before.cohorts.get(cohort), after.cohorts.get(cohort))
    clones = {f"{sent.address.shard}/{sent.address.device}" for sent in ledger.starts.values() if sent.role == "clone"}
    own = {f"{sent.address.shard}/{sent.address.device}" for sent in ledger.starts.values()} - clones
    least, of_clones = (_of_devices(before, after, names) for names in (own, clones))
    found = np.zeros(1, np.int64) if counted is None else counted
    if bool(np.all(least <= found) and np.all(found <= least + of_clones)):
        return
    samples, reported = int(found[0]), int(least[0])
    text = f"the buckets of the cohort count {samples} samples, those of its devices {reported}"
    kind: DifferenceKind = "wrong" if samples == reported else "lost" if samples < reported else "double"
    yield Difference(kind=kind, what="buckets of the cohort", device=f"cohort '{cohort[1]}'", text=text)


def _of_devices(before: FleetTotals, after: FleetTotals, names: set[str]) -> Counts:
    """Return by how much the buckets of devices have grown, number by number; [0] without any."""
    total: Counts = np.zeros(1, np.int64)
    for totals, sign in ((after, 1), (before, -1)):
        for name in names:
            stored: DeviceTotals | None = totals.devices.get(name)
            for counts in () if stored is None else stored.buckets.values():
                total = total + sign * counts
    return total


def _sum_of_series(device: DeviceTotals | None, revision: int) -> Counts | None:
    if device is None:
        return None
    found = [one.counts for (_, number), one in device.series.items() if number == revision and one.counts is not None]
    return np.sum(found, axis=0) if found else None


def _grown(before: Counts | None, after: Counts | None) -> Counts | None:
    if after is None or before is None:
        return after
    return np.subtract(after, before)


def _is_equal(one: Counts | None, other: Counts | None) -> bool:
    """Compare counts number by number; None stands for zeros."""
    if one is None or other is None:
        return not any(np.any(counts) for counts in (one, other) if counts is not None)
    return np.array_equal(one, other)


def _samples(counts: Counts | None) -> int:
    """Return the number of samples: every sample reaches the first exit."""
    return 0 if counts is None else int(counts[0])


def _payload_of(sent: SentStart, series: SentSeries, sequence: int) -> bytes | None:
    """Return the payload of a report that is acknowledged or waits for an answer."""
    if sequence == series.acked:
        return series.acked_payload
    message = sent.pending.get(sequence)
    return message.payload if message is not None and message.series is series else None


def _counts_of(payload: bytes) -> Counts:
    report = msgspec.json.decode(payload, type=Report)
    return counts_of_exits(report.exits, report.failed)
