"""Stores hostile messages through the whole intake of the calibrator, mixed with honest ones, in a real database.

Nothing may raise or count as an internal error, memory must stay flat, the honest messages must be stored and counted
exactly, and what is stored must be readable.
"""

import logging
import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from edgeexit_calibration import CohortAddress, disagreement, exit_mix, iterate_devices, open_database
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.quotas import Quotas
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.store.counts import counts_of, unpack_counts
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.open_buckets import device_buckets
from edgeexit_calibration.store.tables import AuditedSampleRow, AuditRow, DeviceRow, FleetRow
from hostile import HostileMessages
from sqlalchemy import func, select

from edgeexit.latency import BIN_COUNT
from edgeexit.signing import PrivateKey
from edgeexit.wire import (
    SCORE_BINS,
    Ack,
    Audit,
    AuditedSample,
    Delivery,
    DeviceAddress,
    ExitCounters,
    Report,
    decode,
    encode,
    up_topic,
)
from edgeexit.wire.audit_signing import sign_audit

if TYPE_CHECKING:
    from edgeexit.wire.counter_array import Counts

_BATCH: Final = 2000
_HONEST_EVERY: Final = 20
"""One of so many messages is an honest one."""
_HONEST_DEVICES: Final = 100
_MAX_GROWTH_MB: Final = 128
"""Caches of a bounded size may still fill up after a quarter of the messages."""
_UNLIMITED: Final = Quotas(messages_per_minute=10**9, message_burst=10**9)
_COHORT: Final = "honest"


class _HonestDevices:
    """Devices whose reports and audits all have to be stored."""

    def __init__(self, fleet: str, bundle: str) -> None:
        self._bundle = bundle
        self._key = PrivateKey.generate()
        self._addresses = [DeviceAddress(fleet, "s0", f"honest-{number}") for number in range(_HONEST_DEVICES)]
        self.newest: dict[DeviceAddress, Report] = {}
        self.samples: defaultdict[DeviceAddress, int] = defaultdict(int)
        self.unanswered: set[tuple[DeviceAddress, int]] = set()

    def messages(self) -> Iterator[Delivery]:
        """Yield messages without end; every tenth is an audit."""
        sequence = 0
        while True:
            for address in self._addresses:
                sequence += 1
                self.unanswered.add((address, sequence))
                is_audit = sequence % 10 == 0
                payload = self._audit(address, sequence) if is_audit else self._report(address, sequence)
                yield Delivery(topic=up_topic(address, "audit" if is_audit else "report"), payload=payload)

    def answered(self, address: DeviceAddress, ack: Ack) -> None:
        """Take an acknowledgement."""
        self.unanswered.difference_update((address, sequence) for sequence in ack.sequences)

    def _start(self, address: DeviceAddress) -> str:
        return f"{self._addresses.index(address):016x}"

    def _report(self, address: DeviceAddress, sequence: int) -> bytes:
        counts = (sequence, sequence // 2, 1)
        exits = tuple(
            ExitCounters(
                reached=sum(counts[k:]),
                exited=count,
                scores=(*(0,) * (SCORE_BINS - 1), sum(counts[k:])),
                latency=(count, *(0,) * (BIN_COUNT - 1)),
            )
            for k, count in enumerate(counts)
        )
        report = Report(
            start=self._start(address), sequence=sequence, bundle=self._bundle, cohort=_COHORT, revision=1,
            uptime_s=float(sequence), exits=exits,
        )  # fmt: skip
        self.newest[address] = report
        return encode(report)

    def _audit(self, address: DeviceAddress, sequence: int) -> bytes:
        sample = AuditedSample(exit=0, top1=(1, 1, 2), p1=(0.5,) * 3, p2=(0.25,) * 3, entropy=(1.0,) * 3)
        self.samples[address] += 2
        audit = Audit(
            start=self._start(address), sequence=sequence, bundle=self._bundle, cohort=_COHORT, revision=1,
            samples=(sample,) * 2,
        )  # fmt: skip
        return sign_audit(encode(audit), topic=up_topic(address, "audit"), key=self._key)


def fuzz_intake(
    count: int, *, fleet: str, bundle: str, golden: Mapping[str, tuple[bytes, ...]], seed: int, url: str | None
) -> bool:
    """Store `count` hostile messages and the honest ones among them; return whether everything was right.

    Args:
        count: number of hostile messages.
        fleet: the fleet.
        bundle: digest of the bundle that the honest devices run.
        golden: kind of message -> golden messages.
        seed: of the hostile messages.
        url: of an empty database; None: a new SQLite file.

    """
    logging.getLogger("edgeexit_calibration").setLevel(logging.ERROR)  # not the warnings of the messages
    with tempfile.TemporaryDirectory(prefix="edgeexit-fuzz-") as folder:
        database = open_database(url or str(Path(folder) / "fuzz.sqlite"))
        honest = _HonestDevices(fleet, bundle)
        hostile = HostileMessages(fleet=fleet, bundle=bundle, golden=golden, seed=seed)
        rules = IngestRules(quotas=_UNLIMITED)
        intake = Intake(database, lambda messages: _answer(honest, messages), fleet=fleet, rules=rules)
        growth_mb = _store_all(intake, hostile, honest, count)
        faults = [*_faults(database, fleet, honest), *_unreadable(database, fleet, bundle)]
        if growth_mb > _MAX_GROWTH_MB:
            faults.append(f"memory grew by {growth_mb:.0f} MB")
        for fault in faults:
            print(f"intake: {fault}")
        database.close()
    return not faults


def _store_all(intake: Intake, hostile: HostileMessages, honest: _HonestDevices, count: int) -> float:
    """Store the messages; return the growth of the memory in MB after the first quarter of them."""
    stop, started, sent, next_line, early_mb = threading.Event(), time.perf_counter(), 0, count / 10, 0.0
    attacks, rights = hostile.messages(), honest.messages()
    size = min(_BATCH, count)
    while sent < count:
        batch = [next(rights if number % _HONEST_EVERY == 0 else attacks) for number in range(size)]
        sent += size - len(range(0, size, _HONEST_EVERY))
        intake.store(batch, stop)
        if not early_mb or sent <= count / 4:
            early_mb = _memory_mb()
        if sent >= next_line or sent >= count:
            next_line += count / 10
            per_s = sent / (time.perf_counter() - started)
            print(
                f"intake {sent:11,} hostile messages, {intake.drops.total:11,} not stored, {_memory_mb():6.0f} MB, "
                f"{per_s:7,.0f}/s",
                flush=True,
            )
    intake.store([], stop)  # writes the counts of the last drops
    return _memory_mb() - early_mb


def _answer(honest: _HonestDevices, messages: Sequence[tuple[str, bytes]]) -> None:
    for topic, payload in messages:
        fleet, shard, device = topic.split("/")[2:5]
        if device.startswith("honest-"):
            honest.answered(DeviceAddress(fleet, shard, device), decode(payload, Ack))


def _faults(database: Database, fleet: str, honest: _HonestDevices) -> Iterator[str]:
    """Yield what is stored wrongly."""
    if honest.unanswered:
        yield f"{len(honest.unanswered)} honest messages are not acknowledged"
    with database.reading() as session:
        row = session.get(FleetRow, fleet)
        drops = [{} if row is None else row.drops, *session.scalars(select(DeviceRow.drops).filter_by(fleet=fleet))]
        errors = sum(counts.get("internal error", 0) for counts in drops)
        if errors:
            yield f"{errors} messages were internal errors"
        ids = {
            DeviceAddress(*found[1:]): found[0]
            for found in session.execute(select(DeviceRow.id, DeviceRow.fleet, DeviceRow.shard, DeviceRow.device))
        }
        for address, report in honest.newest.items():
            if address not in ids:
                yield f"{address.device}: nothing is stored"
                continue
            buckets = device_buckets(session, [ids[address]])
            total: Counts = sum((unpack_counts(bucket.counts) for bucket in buckets), np.zeros(1, np.int64))
            if not np.array_equal(total, counts_of(report)):
                yield f"{address.device}: the counts of its reports are wrong"
            samples = session.scalar(
                select(func.count()).select_from(AuditedSampleRow).join(AuditRow).filter_by(device_id=ids[address])
            )
            if samples != honest.samples[address]:
                yield f"{address.device}: {samples} audited samples are stored instead of {honest.samples[address]}"


def _unreadable(database: Database, fleet: str, bundle: str) -> Iterator[str]:
    """Yield what is stored but cannot be shown."""
    try:
        count = sum(1 for _ in iterate_devices(database))
        for cohort in (_COHORT, "presses", "x"):
            address = CohortAddress(fleet, bundle, cohort)
            exit_mix(database, address)
            disagreement(database, address)
    except Exception as error:  # noqa: BLE001 - that is what fuzzing looks for
        yield f"what is stored cannot be shown: {error!r}"
    else:
        print(f"intake: {count} devices are stored and can be shown")


def _memory_mb() -> float:
    """Return the memory of this process in MB; where it cannot be read, the highest so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 1e6
