"""Calibrator processes of one fleet on PostgreSQL, and a crowd of devices that sends until it is acknowledged."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import paho.mqtt.client as paho
from edgeexit_calibration import Database
from edgeexit_calibration.store.counts import unpack_counts
from edgeexit_calibration.store.leases import Lease, Leases
from edgeexit_calibration.store.open_buckets import device_buckets
from edgeexit_calibration.store.tables import AuditTotalRow, DeviceRow, SeriesRow
from sqlalchemy import func, select

from edgeexit.bundle import Bundle
from edgeexit.signing import PrivateKey, verify
from edgeexit.wire import HEARTBEAT_TYPE, Ack, DeviceAddress, Heartbeat, decode, up_topic
from scripts.chaoslab.proxy import Proxy
from tests.calibration.scenario import FLEET, audits_of, payload_of, report_of, state_of

_RESEND_S = 5.0
_ROUND_S = 0.5
_COMMAND = [sys.executable, "-c", "from edgeexit.cli.main import main; main()", "calibrator", "run"]


class CalibratorProcess:
    """A process with a proxy before its database and one before its broker, which can be cut.

    Args:
        name: of its log file.
        folder: for the log and the key, `calibrator.key`.
        database_url: SQLAlchemy URL with the port in `{port}`.
        database_port: port of PostgreSQL.
        broker_port: port of the broker.
        lease_s: duration of its leases.

    """

    def __init__(
        self, name: str, folder: Path, *, database_url: str, database_port: int, broker_port: int, lease_s: float
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        generator = random.Random(1)  # noqa: S311 - moments of faults
        self.database = Proxy(database_port, generator, is_mqtt=False)
        self.broker = Proxy(broker_port, generator)
        self._arguments = [
            *("--database", database_url.format(port=self.database.port), "--broker", self.broker.url),
            *("--fleet", FLEET, "--key", str(folder / "calibrator.key"), "--lease", str(lease_s)),
            *("--check-interval", "0.3", "--heartbeat-interval", "1"),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*_COMMAND, *self._arguments], stdout=log, stderr=log)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def end(self) -> int:
        """End it with SIGTERM; return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def close(self) -> None:
        self.kill()
        self.database.close()
        self.broker.close()


class Crowd:
    """Devices of several shards over one connection; each sends a report and an audit per round until acknowledged."""

    def __init__(self, broker_port: int, bundle: Bundle, *, shards: int, devices: int, key: PrivateKey) -> None:
        self._bundle = bundle
        self._key = key
        self.addresses = [
            DeviceAddress(FLEET, f"s{shard}", f"d{shard}-{number}")
            for shard in range(shards)
            for number in range(devices)
        ]
        self._lock = threading.Lock()
        self._waiting: dict[tuple[DeviceAddress, int], tuple[str, bytes, float]] = {}
        self.round = 0
        self._round_due = 0.0
        self.counters: list[int] = []
        """Counters of the heartbeats in the order of their arrival."""
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._receive
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(f"edgeexit/v1/{FLEET}/+/+/down/ack", 0), (f"edgeexit/v1/{FLEET}/heartbeat/+/+", 1)]
        )
        self._client.connect("127.0.0.1", broker_port)
        self._client.loop_start()
        for address in self.addresses:
            topic = up_topic(address, "state")
            self._client.publish(topic, payload_of(topic, state_of(bundle.digest)), qos=1, retain=True)

    @property
    def waiting(self) -> int:
        """Number of messages that are not acknowledged."""
        return len(self._waiting)

    def send_round(self) -> None:
        """Send the next report and the next audit of every device, unless the last ones were sent just now."""
        if time.monotonic() < self._round_due:
            return
        self._round_due = time.monotonic() + _ROUND_S
        self.round += 1
        for address in self.addresses:
            report = report_of(self._bundle.digest, sequence=2 * self.round, counts=(5 * self.round, 3, 2))
            [audit] = audits_of(self._bundle, 1, first_sequence=2 * self.round + 1, size=1)
            for kind, message in (("report", report), ("audit", audit)):
                topic = up_topic(address, kind)
                self._send(address, message.sequence, topic, payload_of(topic, message))

    def resend(self) -> None:
        """Send again what has waited for an acknowledgement for a while."""
        now = time.monotonic()
        with self._lock:
            late = [
                (key, topic, payload) for key, (topic, payload, at) in self._waiting.items() if now - at > _RESEND_S
            ]
        for (address, sequence), topic, payload in late:
            self._send(address, sequence, topic, payload)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _send(self, address: DeviceAddress, sequence: int, topic: str, payload: bytes) -> None:
        with self._lock:
            self._waiting[address, sequence] = (topic, payload, time.monotonic())
        self._client.publish(topic, payload, qos=1)

    def _receive(self, _client: object, _user: object, message: paho.MQTTMessage) -> None:
        levels = message.topic.split("/")
        if levels[3] == "heartbeat":
            payload = verify(message.payload, payload_type=HEARTBEAT_TYPE, keys=[self._key.public_key()])
            self.counters.append(decode(payload, Heartbeat).counter)
            return
        address, ack = DeviceAddress(*levels[2:5]), decode(message.payload, Ack)
        assert not ack.refused
        with self._lock:
            for sequence in ack.sequences:
                self._waiting.pop((address, sequence), None)


class LeaseWatch:
    """Reads the leases again and again: who led and who owned a shard, in which term."""

    def __init__(self, database: Database) -> None:
        self._leases = Leases(database, FLEET)
        self.owners: dict[tuple[str, int], set[str]] = {}
        """(name, term) -> owners that were seen; there must be one."""

    def look(self) -> dict[str, Lease]:
        """Return the leases that are held now."""
        live = {name: lease for name, lease in self._leases.all_of_fleet().items() if lease.remaining_s > 0}
        for lease in live.values():
            self.owners.setdefault((lease.name, lease.term), set()).add(lease.owner)
        return live

    def owned(self) -> Counter[str]:
        """Return the number of shards per owner."""
        return Counter(lease.owner for name, lease in self.look().items() if " shard " in name)


def stored(database: Database) -> dict[str, list[int]]:
    """Return per device: newest sequence, its samples, and the samples in its buckets."""
    with database.reading() as session:
        series = {
            name: (sequence, int(unpack_counts(counts)[1::62].sum()))
            for name, sequence, counts in session.execute(
                select(DeviceRow.device, SeriesRow.sequence, SeriesRow.counts).join(SeriesRow)
            )
            if counts is not None
        }
        buckets: Counter[str] = Counter()
        names = dict(session.execute(select(DeviceRow.id, DeviceRow.device)).all())
        for bucket in device_buckets(session, list(names)):
            buckets[names[bucket.device_id]] += int(unpack_counts(bucket.counts)[1::62].sum())
    return {name: [*values, buckets[name]] for name, values in series.items()}


def audited(database: Database) -> int:
    """Return the total number of audited samples."""
    with database.reading() as session:
        return int(session.scalar(select(func.sum(AuditTotalRow.samples))) or 0)


def database_template(url: str) -> str:
    """Return a database URL with `{port}` in place of its port."""
    return re.sub(r"(@127\.0\.0\.1:)\d+", r"\1{port}", url)
