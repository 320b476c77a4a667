"""The laboratory of one situation: a folder, a broker, a calibrator, agents. On exit, all of it is gone."""

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from edgeexit.agent import AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.signing import generate_key, load_private_key
from edgeexit.wire import BrokerConfig, DeviceAddress
from scripts.chaoslab.brokers import Broker, Iotcore, Mosquitto, has_mosquitto
from scripts.chaoslab.calibrator import Calibrator
from scripts.chaoslab.cohort_policies import CohortPolicies
from scripts.chaoslab.device import DeviceSpec, run_device
from scripts.chaoslab.ledger import Balance, Entry, compare, read_ledger, read_tail
from scripts.chaoslab.postgres import new_postgres
from scripts.chaoslab.processes import ForkedProcess
from scripts.chaoslab.simulated_load import SimulatedLoad
from scripts.chaoslab.stored import StoredDatabase
from scripts.chaoslab.waiting import GENEROUS_S, pause, wait_until
from scripts.chaoslab.watcher import FLEET, Watcher
from tests.bundles import make_bundle
from tests.postgres import Postgres

REPORT_INTERVAL_S = 0.25
_EMPTY_TICKS = 10
"""An outbox that is empty in so many ticks (half a second) is drained."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table: a promise, what was counted, and whether the promise was kept."""

    situation: str
    promise: str
    counted: str
    kept: bool | None
    """None: skipped; `counted` says why."""
    notes: tuple[str, ...] = ()
    """Details for whoever repeats a broken promise."""


class Device:
    """One device: its folder, its configuration, and its process, which can be started many times."""

    def __init__(self, folder: Path, spec: DeviceSpec) -> None:
        self.name = spec.config.device
        self.folder = folder
        self.state_dir = spec.config.state_dir
        self.log = spec.log
        self._spec = spec
        self._process: ForkedProcess | None = None
        self._starts = 0

    @property
    def address(self) -> DeviceAddress:
        """The topic levels of the device."""
        return self._spec.config.address

    @property
    def ledgers(self) -> list[Path]:
        """The ledgers of all starts, oldest first."""
        return [self._ledger(number) for number in range(1, self._starts + 1)]

    @property
    def alive(self) -> bool:
        """True while its process runs."""
        return self._process is not None and self._process.alive

    def start(self, **changes: Any) -> None:
        """Start its process; `changes` replace fields of the specification."""
        self._starts += 1
        spec = msgspec.structs.replace(self._spec, ledger=self._ledger(self._starts), **changes)
        self._process = ForkedProcess(run_device, spec)

    @property
    def ready(self) -> bool:
        """True when the newest start has opened its agent."""
        return any(entry.kind in {"ready", "tick"} for entry in self.tail())

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Wait until its process has ended by itself; return False after the timeout."""
        return self._process is None or self._process.wait(timeout_s)

    def pause(self) -> None:
        """Stop its inferences, so that the outbox can become empty."""
        if self._process is not None:
            self._process.signal(signal.SIGUSR1)

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self._process is not None:
            self._process.signal(signal.SIGTERM)
            if not self._process.wait(GENEROUS_S):
                self._process.kill()

    def entries(self) -> list[Entry]:
        """Return the lines of the ledger of the newest start."""
        return list(read_ledger(self._ledger(self._starts)))

    def last(self, kind: str) -> Entry | None:
        """Return the last line of a kind among the last lines of the newest start."""
        return next((entry for entry in reversed(self.tail()) if entry.kind == kind), None)

    def tail(self) -> list[Entry]:
        """Return the last lines of the ledger of the newest start: at least the last second."""
        return read_tail(self._ledger(self._starts))

    def failures(self) -> int:
        """Return the number of inferences that failed, in all starts."""
        return sum(entry.kind == "failed" for ledger in self.ledgers for entry in read_ledger(ledger))

    def _ledger(self, start: int) -> Path:
        return self.folder / f"ledger-{start:04d}.jsonl"


class Lab:
    """Starts what a situation needs, and ends it on exit. A context manager.

    Args:
        folder: a new folder for everything; it is removed on exit.
        name: name of the situation.
        seed: the situation draws its random numbers from this seed and its name.
        long: whether the long form runs.
        progress: receives one line of text.

    """

    def __init__(self, folder: Path, *, name: str, seed: int, long: bool, progress: Any) -> None:
        self.name = name
        self.long = long
        self.seed = seed
        self.random = random.Random(f"{seed}/{name}")  # noqa: S311 - moments of faults
        self.folder = folder / name
        self.progress = progress
        self.keep: Path | None = None
        """Where the folder is moved on exit; None: it is removed."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Lab":
        """Create the folder, a key and a bundle."""
        self.folder.mkdir()
        self._stack.callback(self._remove_folder)
        self._key_path = self.folder / "calibrator.key"
        self.public_key = generate_key(self._key_path)
        self.key = load_private_key(self._key_path)
        self.bundle = make_bundle(self.folder / "bundle")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all processes, unmount all disks and remove the folder."""
        self._stack.close()

    def on_exit(self, function: Any, *arguments: Any) -> None:
        """Call a function on exit, before what was started earlier ends."""
        self._stack.callback(function, *arguments)

    def broker(self, kind: str | None = None, **options: Any) -> Broker:
        """Start a broker: `mosquitto` (default, if it is installed) or `iotcore`."""
        kind = kind or ("mosquitto" if has_mosquitto() else "iotcore")
        folder = self.folder / f"broker-{time.monotonic_ns()}"
        broker: Broker = Mosquitto(folder, **options) if kind == "mosquitto" else Iotcore(folder)
        broker.start()
        self._stack.callback(broker.kill)
        return broker

    def calibrator(self, url: str, **options: Any) -> Calibrator:
        """Start a calibrator, see `Calibrator`; it stores messages when this returns."""
        calibrator = self.new_calibrator(url, **options)
        calibrator.start()
        return calibrator

    def new_calibrator(self, url: str, *, folder: Path | None = None, **options: Any) -> Calibrator:
        """Return a calibrator, which is not started."""
        folder = folder or self.folder / f"calibrator-{time.monotonic_ns()}"
        calibrator = Calibrator(folder, url, key=self._key_path, **options)
        self._stack.callback(calibrator.kill)
        return calibrator

    def postgres(self) -> Postgres:
        """Start a PostgreSQL server."""
        server = new_postgres()
        self._stack.callback(server.remove)
        return server

    def simulated_load(self, url: str, database: StoredDatabase, *, shards: int = 1) -> SimulatedLoad:
        """Start a simulated fleet, besides the agents."""
        folder = self.folder / f"simulate-{time.monotonic_ns()}"
        load = SimulatedLoad(folder, self.bundle, url, database, long=self.long, shards=shards)
        self._stack.callback(load.kill)
        return load

    def policies(self, database: StoredDatabase, broker: Broker) -> CohortPolicies:
        """Register the cohort of the devices."""
        folder = self.folder / f"registered-{time.monotonic_ns()}"
        return CohortPolicies(folder, self.bundle, database, broker.port, self.key.public_key())

    def watcher(self, port: int, bundle: Bundle | None = None) -> Watcher:
        """Connect an operator."""
        watcher = Watcher(port, bundle or self.bundle, self.key)
        self._stack.callback(watcher.close)
        return watcher

    def device(
        self,
        name: str,
        url: str,
        *,
        state_dir: Path | None = None,
        bundle: Bundle | None = None,
        folder: str | None = None,
        **changes: Any,
    ) -> Device:
        """Return a device, which is not started; `changes` replace fields of its configuration."""
        home = self.folder / (folder or name)
        home.mkdir(exist_ok=True)
        rate = changes.pop("rate", 40.0)
        fields: dict[str, Any] = {
            "audit_fraction": 0.5,
            "report_interval_s": REPORT_INTERVAL_S,
            "resend_s": 2.0,
            **changes,
        }
        config = AgentConfig(
            fleet=FLEET,
            device=name,
            state_dir=state_dir or home / "state",
            trusted_keys=(self.public_key,),
            broker=BrokerConfig(url=url),
            **fields,
        )
        spec = DeviceSpec(
            bundle=(bundle or self.bundle).path, config=config, ledger=home, log=home / "agent.log", rate=rate
        )
        device = Device(home, spec)
        self._stack.callback(device.kill)
        return device

    def drain(self, devices: list[Device], *, timeout_s: float = GENEROUS_S) -> None:
        """Pause the running devices, wait until their outboxes are empty, and stop them."""
        for device in devices:  # before it is ready, a signal would end its process
            wait_until(lambda d=device: not d.alive or d.ready, GENEROUS_S)
            device.pause()
        pause(3 * REPORT_INTERVAL_S)
        deadline = time.monotonic() + timeout_s
        for device in devices:
            wait_until(lambda d=device: not d.alive or _is_drained(d), max(deadline - time.monotonic(), 0.1))
        for device in devices:
            device.stop()

    def settle(self, devices: list[Device], database: StoredDatabase) -> Balance:
        """Drain the devices and compare with the database."""
        self.drain(devices)
        return self.balance(devices, database)

    def balance(
        self,
        devices: list[Device],
        database: StoredDatabase,
        *,
        device: str = "%",
        newest: bool = False,
        reports: bool = True,
        timeout_s: float = GENEROUS_S,
    ) -> Balance:
        """Compare the ledgers of the devices with the database; wait until nothing is missing, up to the timeout.

        An agent that stops sends the rest of its outbox last, and a busy calibrator stores it later.

        `newest`: compare the newest start of each device only; what else is stored counts as double then.
        `reports`: wait for the reports, too; False if some of them cannot arrive.
        """
        ledgers = [ledger for one in devices for ledger in (one.ledgers[-1:] if newest else one.ledgers)]
        deadline = time.monotonic() + timeout_s
        while True:
            balance = compare(ledgers, database, device=device)
            if not (balance.missing if reports else balance.lost_samples) or time.monotonic() >= deadline:
                return balance
            pause(0.3)

    def load_check(self, fault: str, load: SimulatedLoad) -> Check:
        """End a simulated fleet, and return what its comparison with the database shows."""
        result = load.finish()
        promise = f"{fault}: `edgeexit fleet simulate` finds nothing lost, double or wrong"
        return Check(situation=self.name, promise=promise, counted=result.text, kept=result.exact)

    def fleet_checks(
        self, fault: str, times: str, devices: list[Device], policies: CohortPolicies, *, device: str = "%"
    ) -> list[Check]:
        """Let everything calm down, and return what every fault of the cloud must leave: messages, policies.

        `fault` and `times` are for the table; `device` is an SQL pattern for the names of the devices.
        """
        self.drain(devices)
        balance = self.balance(devices, policies.database, device=device)
        failures = sum(device.failures() for device in devices)
        compared = policies.compare()
        return [
            Check(
                situation=self.name,
                promise=f"{fault}: no message is lost or counted twice, no inference fails",
                counted=f"{times}; {balance}; {failures} inferences failed",
                kept=balance.exact and not failures and balance.samples > 0,
            ),
            Check(
                situation=self.name,
                promise=f"{fault}: afterwards, the broker has the policies of the database",
                counted=compared.text,
                kept=compared.equal,
            ),
        ]

    def _remove_folder(self) -> None:
        if self.keep is not None:
            shutil.rmtree(self.keep / self.name, ignore_errors=True)
            shutil.copytree(self.folder, self.keep / self.name, ignore_dangling_symlinks=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def running(devices: list[Device], timeout_s: float = GENEROUS_S) -> Iterator[Device]:
    """Yield each device when it runs inferences. Raises TimeoutError if one does not."""
    for device in devices:
        if not wait_until(lambda d=device: (tick := d.last("tick")) and tick.inferences, timeout_s):
            raise TimeoutError(f"device '{device.name}' runs no inferences; see {device.log}")
        yield device


def wait_until_empty(devices: list[Device], timeout_s: float = GENEROUS_S) -> None:
    """Wait until the outbox of each device has been empty once, e.g. so that the next fault hits what works."""
    deadline = time.monotonic() + timeout_s
    for device in devices:
        limit_s = max(deadline - time.monotonic(), 0.1)
        wait_until(lambda d=device: (tick := d.last("tick")) is not None and tick.waiting == 0, limit_s)


def _is_drained(device: Device) -> bool:
    ticks = [entry for entry in device.tail() if entry.kind == "tick"][-_EMPTY_TICKS:]
    return len(ticks) == _EMPTY_TICKS and all(tick.waiting == 0 for tick in ticks)
