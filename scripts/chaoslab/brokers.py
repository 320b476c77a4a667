"""Real brokers in processes of their own, which can be killed and started again on the same port."""

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from edgeexit.quickstart.fleet import Ports, broker_config
from scripts.chaoslab.processes import ForkedProcess

_START_S = 120.0
_MAX_QUEUED = 100_000
"""Messages that wait for a client: what arrives while a calibrator is away, as docs/scaling.md recommends."""


def free_port() -> int:
    """Return a port of localhost that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_mosquitto() -> bool:
    """Return True if mosquitto is installed."""
    return _mosquitto() is not None


class Mosquitto:
    """mosquitto, started from a configuration of its own.

    Args:
        folder: folder for its configuration, database and log.
        persistence: whether it stores sessions and retained messages, once a second.
        max_packet_size: largest packet that it accepts, or None.

    """

    def __init__(self, folder: Path, *, persistence: bool = False, max_packet_size: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = "mosquitto with persistence" if persistence else "mosquitto"
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "user root", f"log_dest file {self._log}"]
        lines += [f"persistence {str(persistence).lower()}", f"max_queued_messages {_MAX_QUEUED}"]
        if persistence:
            lines += [f"persistence_location {folder}/", "autosave_interval 1"]
        if max_packet_size is not None:
            lines.append(f"max_packet_size {max_packet_size}")
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        command = [str(_mosquitto()), "-c", str(self._config)]
        self._process = subprocess.Popen(  # noqa: S603 - a constant command
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _wait_for_port(self.port)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Iotcore:
    """rumqttd, in a process of its own; it keeps nothing when it ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = "iotcore"
        ports = Ports(mqtt3=free_port(), mqtt5=free_port())
        self.port = ports.mqtt5
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "broker.toml"
        self._config.write_text(broker_config(ports))
        self._process: ForkedProcess | None = None

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        self._process = ForkedProcess(_run_iotcore, str(self._config))
        _wait_for_port(self.port)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process = None


Broker = Mosquitto | Iotcore


def _run_iotcore(config: str) -> None:
    import iotcore  # noqa: PLC0415 - only this process needs it

    broker = iotcore.Broker(config_path=config)
    broker.start()
    threading.Event().wait()


def _mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise TimeoutError(f"no broker on port {port} within {_START_S:g} s")
