"""The moving parts of the story, each a process of its own: broker, calibrator, two devices. All on localhost."""

import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from edgeexit.errors import EdgeExitError
from edgeexit.files import write_atomic
from edgeexit.signing import generate_key

FLEET = "quickstart"
SHARD = "s0"
COHORT = "cameras"
DEVICES = ("camera-1", "camera-2")

_HOST = "127.0.0.1"
_USUAL_PORT = 1883
_STOP_S = 10.0


class QuickstartError(EdgeExitError):
    """A part of the quickstart did not do what the story needs."""


class Ports(msgspec.Struct, frozen=True):
    """Where the broker listens, on localhost."""

    mqtt3: int
    """MQTT 3.1.1, what `mosquitto_sub` speaks unless told otherwise; 1883 where that is free."""
    mqtt5: int
    """MQTT 5, what calibrator and agents speak."""


class Fleet:
    """Starts and stops the processes; a context manager that leaves none behind.

    Args:
        folder: where configurations, state and logs go.
        python: the interpreter that has edgeexit installed.

    """

    def __init__(self, folder: Path, *, python: str = sys.executable) -> None:
        self.folder = folder
        self.key = folder / "calibrator.key"
        self.database = folder / "calibrator.sqlite"
        self.ports = Ports(_port(_USUAL_PORT), _port(0))
        self._python = python
        self._stack = contextlib.ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Fleet":
        """Make the folders and the key; start nothing yet."""
        (self.folder / "logs").mkdir(exist_ok=True)
        generate_key(self.key)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop devices, calibrator and broker, in this order."""
        self._stack.close()

    @property
    def url(self) -> str:
        """The broker's address for calibrator and agents."""
        return f"mqtt://{_HOST}:{self.ports.mqtt5}"

    def start_broker(self) -> None:
        """Start iotcore. Raises QuickstartError when it does not come up."""
        import iotcore  # noqa: PLC0415 - an extra

        logging.getLogger("iotcore").setLevel(logging.WARNING)
        config = self.folder / "broker.toml"
        write_atomic(config, broker_config(self.ports).encode())
        broker = iotcore.Broker(config_path=str(config))
        try:
            broker.start()
        except (OSError, RuntimeError) as error:
            raise QuickstartError(f"the broker did not start on port {self.ports.mqtt3}: {error}") from error
        self._stack.callback(broker.stop)

    def start_calibrator(self, *, check_interval_s: float) -> None:
        """Start the calibrator on the database."""
        self._start(
            "calibrator",
            [
                *("calibrator", "run", "--database", str(self.database), "--broker", self.url, "--fleet", FLEET),
                *("--key", str(self.key), "--check-interval", str(check_interval_s)),
            ],
        )

    def start_agents(self, bundle: Path, stream: Path, *, rate: float, audit_fraction: float) -> None:
        """Start the devices on the bundle; both replay `stream` at `rate` samples a second."""
        for device in DEVICES:
            home = self.folder / device
            home.mkdir(exist_ok=True)
            config = home / "agent.toml"
            write_atomic(config, _agent_config(device, self.url, audit_fraction).encode())
            self._start(
                device,
                ["agent", str(bundle), "--config", str(config), "--stream", str(stream), "--rate", str(rate)],
            )

    def check(self) -> None:
        """Raise QuickstartError with the last line of its log when a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = self.folder / "logs" / f"{name}.log"
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(empty log)"]
                raise QuickstartError(f"{name} ended with code {process.returncode}: {lines[-1]} (see {log})")

    def _start(self, name: str, arguments: Sequence[str]) -> None:
        log = self._stack.enter_context((self.folder / "logs" / f"{name}.log").open("wb"))
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [self._python, "-m", "edgeexit", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self._processes[name] = process
        self._stack.callback(self._stop, name)

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ticks(limit_s: float, *, every_s: float = 0.5) -> Iterator[None]:
    """Yield now and then until `limit_s` have passed: the pace of a loop that waits for something."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        yield
        time.sleep(every_s)


def _port(wanted: int) -> int:
    """Return `wanted` where it is free, otherwise a port that is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, wanted))
        except OSError:
            return _port(0)
        return int(probe.getsockname()[1])


def broker_config(ports: Ports) -> str:
    """Return the rumqttd configuration of a broker on localhost that speaks MQTT 3.1.1 and 5."""
    limits = (
        "max_connections = 100\nmax_outgoing_packet_count = 1000\nmax_segment_size = 10485760\nmax_segment_count = 10"
    )
    listeners = "".join(
        f'[{version}.1]\nname = "{version}"\nlisten = "{_HOST}:{port}"\nnext_connection_delay_ms = 1\n'
        f"[{version}.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 1048576\n"
        "max_inflight_count = 100\ndynamic_filters = true\n"
        for version, port in (("v4", ports.mqtt3), ("v5", ports.mqtt5))
    )
    return f"id = 0\n[router]\nid = 0\n{limits}\n{listeners}"


def _agent_config(device: str, url: str, audit_fraction: float) -> str:
    return (
        f'fleet = "{FLEET}"\nshard = "{SHARD}"\ndevice = "{device}"\ncohort = "{COHORT}"\n'
        'state_dir = "state"\ntrusted_keys = ["../calibrator.pub"]\n'
        f"audit_fraction = {audit_fraction}  # a demonstration is impatient; the default is 0.01\n"
        f'report_interval_s = 1   # the default is 60\n\n[broker]\nurl = "{url}"\n'
    )
