"""One calibrator per database of SQLite, and one database per fleet: others are refused, and evict nobody."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from edgeexit_calibration import CalibratorService, ServiceConfig, open_database
from edgeexit_calibration.daemon.presence import OtherInstallationError
from edgeexit_calibration.daemon.tenure import CalibratorRunsError

from edgeexit.errors import EdgeExitError
from edgeexit.signing import generate_key, load_private_key
from edgeexit.wire import BrokerConfig, down_topic, presence_topic, up_topic
from tests.broker import Mosquitto
from tests.calibration.scenario import DEVICE, FLEET, Client, acknowledged, report_of, until

DIGEST = "c" * 64
TOPIC = presence_topic(FLEET)
_COMMAND = [sys.executable, "-c", "from edgeexit.cli.main import main; main()", "calibrator", "run"]


class Running:
    """A service in a thread."""

    def __init__(self, path, broker, key, *, login=None, **options):
        self.database = open_database(str(path))
        login = login or BrokerConfig(url=broker.url)
        config = ServiceConfig(fleet=FLEET, broker=login, check_interval_s=0.1, **options)
        self.service = CalibratorService(self.database, config, [load_private_key(key)])
        self.error = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.service.run(self._stop)
        except EdgeExitError as error:
            self.error = error

    @property
    def ended(self):
        return not self._thread.is_alive()

    def stop(self):
        self._stop.set()
        self._thread.join(20)
        self.database.close()


@pytest.fixture
def broker(tmp_path):
    running = Mosquitto(tmp_path / "mosquitto")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def start(tmp_path, broker, key):
    running = []

    def begin(name, **options):
        options.setdefault("key", key)
        running.append(Running(tmp_path / f"{name}.sqlite", broker, **options))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def device(broker):
    client = Client(broker, TOPIC, down_topic(DEVICE, "ack"))
    yield client
    client.close()


def serves(device, sequence):
    """Return a condition: a calibrator acknowledges reports."""

    def is_acknowledged():
        device.publish(up_topic(DEVICE, "report"), report_of(DIGEST, sequence=sequence))
        return sequence in acknowledged(device)

    return is_acknowledged


def command(tmp_path, broker, key):
    arguments = ["--database", tmp_path / "fleet.sqlite", "--broker", broker.url, "--fleet", FLEET, "--key", key]
    return [*_COMMAND, *map(str, arguments)]


def test_a_second_calibrator_on_sqlite_is_refused_and_one_after_a_kill_starts_at_once(tmp_path, broker, key, device):
    arguments = command(tmp_path, broker, key)
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(arguments, stdout=log, stderr=log)
        until(serves(device, 1), limit_s=60)
        second = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        message = " ".join(second.stderr.split())
        assert second.returncode == 2
        assert f"process {first.pid}, since 20" in message
        assert "stop that one first" in message
        assert "Traceback" not in message
        os.kill(first.pid, signal.SIGKILL)
        first.wait(10)
        third = subprocess.Popen(arguments, stdout=log, stderr=log)
        until(serves(device, 2), limit_s=60)
        third.send_signal(signal.SIGTERM)
        assert third.wait(20) == 0
    until(lambda: device.of(TOPIC)[-1] == b"")  # a clean end removes the presence


def test_a_lease_of_an_unknown_process_is_waited_for(start, device, monkeypatch):
    first = start("fleet", lease_s=1.0)
    until(serves(device, 1))
    monkeypatch.setattr("edgeexit_calibration.store.leases.liveness", lambda _: "unknown")
    second = start("fleet", lease_s=1.0)
    until(lambda: second.ended)
    assert isinstance(second.error, CalibratorRunsError)
    assert not first.ended


def test_a_calibrator_with_another_database_is_refused_and_the_first_one_goes_on(start, device):
    first = start("first")
    until(lambda: device.of(TOPIC))
    second = start("second")
    until(lambda: second.ended)
    assert isinstance(second.error, OtherInstallationError)
    assert "--take-over" in str(second.error)
    until(serves(device, 1))
    assert not first.ended


def test_take_over_ends_the_calibrator_with_the_other_database(start, device):
    first = start("first")
    until(lambda: device.of(TOPIC))
    second = start("second", take_over=True)
    until(lambda: first.ended)
    assert isinstance(first.error, OtherInstallationError)
    until(serves(device, 1))
    assert not second.ended
    assert device.of(TOPIC)[-1] != b""


def test_a_presence_that_nobody_removed_is_refused_without_take_over(start, device):
    first = start("first")
    until(lambda: device.of(TOPIC))
    left_over = device.of(TOPIC)[-1]
    first.stop()
    device.publish(TOPIC, left_over, retain=True)  # e.g. a broker that was restored from a backup
    second = start("second")
    until(lambda: second.ended)
    assert isinstance(second.error, OtherInstallationError)
    third = start("second", take_over=True)
    until(serves(device, 1))
    assert not third.ended


def test_nobody_without_our_key_can_end_or_stop_a_calibrator(start, device, tmp_path):
    foreign = tmp_path / "foreign.key"
    generate_key(foreign)
    other = start("other", key=foreign)
    until(lambda: device.of(TOPIC))
    hostile = device.of(TOPIC)[-1]
    other.stop()
    device.publish(TOPIC, hostile, retain=True)
    ours = start("ours")
    until(lambda: device.of(TOPIC)[-1] not in (b"", hostile))
    for payload in (hostile, b"{}", b"\xff", b"[" * 10_000):
        device.publish(TOPIC, payload, retain=True)
    until(serves(device, 1))
    assert not ours.ended


def test_two_databases_with_one_client_id_for_both_do_not_evict_each_other_in_a_loop(tmp_path, key):
    pinned = Mosquitto(
        tmp_path / "pinned", users={"calibrator": "a", "device": "b"}, lines=["use_username_as_clientid true"]
    )
    pinned.start()
    (tmp_path / "password").write_text("a\n")
    (tmp_path / "password").chmod(0o600)
    login = BrokerConfig(url=pinned.url, username="calibrator", password_file=str(tmp_path / "password"))
    first = Running(tmp_path / "first.sqlite", pinned, key, login=login)
    until(lambda: first.service.announced)
    second = Running(tmp_path / "second.sqlite", pinned, key, login=login)
    until(lambda: second.ended)
    assert isinstance(second.error, OtherInstallationError)
    until(lambda: first.service.connected, limit_s=40)
    assert not first.ended
    first.stop()
    second.stop()
    log = pinned.log.read_text()
    pinned.stop()
    assert log.count("already connected") <= 2
