"""The processes of the quickstart, all on localhost: broker, calibrator and two agents."""

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
_DEFAULT_PORT = 1883
_STOP_S = 10.0


class QuickstartError(EdgeExitError):
    """A step of the quickstart failed."""


class Ports(msgspec.Struct, frozen=True):
    """The broker's ports on localhost."""

    mqtt3: int
    """For MQTT 3.1.1, which `mosquitto_sub` uses by default; 1883 if it is free."""
    mqtt5: int
    """For MQTT 5, which calibrator and agents use."""


class Fleet:
    """Starts and stops broker, calibrator and agents. A context manager; on exit it stops what it has started.

    Args:
        folder: folder for configurations, state and logs.
        python: Python interpreter of the processes; edgeexit must be installed for it.

    """

    def __init__(self, folder: Path, *, python: str = sys.executable) -> None:
        self.folder = folder
        self.key = folder / "calibrator.key"
        self.database = folder / "calibrator.sqlite"
        self.ports = Ports(_port(_DEFAULT_PORT), _port(0))
        self._python = python
        self._stack = contextlib.ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Fleet":
        """Create the folder of the logs and the calibrator's key; start nothing yet."""
        (self.folder / "logs").mkdir(exist_ok=True)
        generate_key(self.key)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop agents, calibrator and broker, in this order."""
        self._stack.close()

    @property
    def url(self) -> str:
        """The broker's URL for calibrator and agents."""
        return f"mqtt://{_HOST}:{self.ports.mqtt5}"

    def start_broker(self) -> None:
        """Start the iotcore broker. Raises QuickstartError if it does not start."""
        import iotcore  # noqa: PLC0415 - an optional dependency

        logging.getLogger("iotcore").setLevel(logging.WARNING)
        config = self.folder / "broker.toml"
        write_atomic(config, broker_config(self.ports).encode())
        broker = iotcore.Broker(config_path=str(config))
        try:
            broker.start()
        except (OSError, RuntimeError) as error:
            raise QuickstartError(
                f"the broker did not start on ports {self.ports.mqtt3} and {self.ports.mqtt5}: {error}"
            ) from error
        self._stack.callback(broker.stop)

    def start_calibrator(self, *, check_interval_s: float) -> None:
        """Start the calibrator."""
        self._start(
            "calibrator",
            [
                *("calibrator", "run", "--database", str(self.database), "--broker", self.url, "--fleet", FLEET),
                *("--key", str(self.key), "--check-interval", str(check_interval_s)),
            ],
        )

    def start_agents(self, bundle: Path, stream: Path, *, rate: float, audit_fraction: float) -> None:
        """Start the agents on the bundle; each replays the samples of `stream` at `rate` samples per second."""
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
        """Raise QuickstartError if a process has ended; the message contains the last line of its log."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = self.folder / "logs" / f"{name}.log"
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(empty log)"]
                raise QuickstartError(f"{name} ended with code {process.returncode}: {lines[-1]} (see {log})")

    def _start(self, name: str, arguments: Sequence[str]) -> None:
        log = self._stack.enter_context((self.folder / "logs" / f"{name}.log").open("wb"))
        process = subprocess.Popen(  # noqa: S603 - the arguments are constants and paths of this class
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
    """Yield every `every_s` seconds until `limit_s` have passed, to pace a loop that waits for a condition."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        yield
        time.sleep(every_s)


def _port(preferred: int) -> int:
    """Return `preferred` if it is free, otherwise another free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, preferred))
        except OSError:
            return _port(0)
        return int(probe.getsockname()[1])


def broker_config(ports: Ports) -> str:
    """Return the configuration (TOML) of a rumqttd broker on localhost with MQTT 3.1.1 and MQTT 5."""
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
        f"audit_fraction = {audit_fraction}  # high, to keep the demo short; the default is 0.01\n"
        f'report_interval_s = 1   # the default is 60\n\n[broker]\nurl = "{url}"\n'
    )
