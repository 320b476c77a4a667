"""Real brokers for tests: rumqttd with the configuration of the quickstart, mosquitto and amqtt."""

import asyncio
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import iotcore
import pytest

from edgeexit.quickstart.fleet import Ports, broker_config

_MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class RealBroker:
    """rumqttd on free ports. It can be stopped and started again, but keeps no state in between."""

    def __init__(self, folder: Path) -> None:
        mqtt3, mqtt5 = free_ports(2)
        ports = Ports(mqtt3=mqtt3, mqtt5=mqtt5)
        self.port = ports.mqtt5
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "broker.toml"
        self._config.write_text(broker_config(ports))
        self._broker: Any = None

    def start(self) -> None:
        self._broker = iotcore.Broker(config_path=str(self._config))
        self._broker.start()

    def stop(self) -> None:
        if self._broker is not None:
            self._broker.stop()
            self._broker = None


class Mosquitto:
    """mosquitto on a free port, as a process of its own that stores nothing. It can be stopped and started again.

    Args:
        folder: empty or new folder for its configuration and its log, `mosquitto.log`.
        max_packet_size: larger packets end the connection of the client that sends them.
        users: user name -> password; None: everybody may connect.
        tls: lines such as `cafile`, `certfile`, `require_certificate` -> value; a `mqtts://localhost` broker.
        websockets: also listen for WebSockets on `websocket_port`.
        lines: further lines of the configuration of the listener, e.g. `acl_file /path`.

    """

    def __init__(
        self,
        folder: Path,
        *,
        max_packet_size: int | None = None,
        users: Mapping[str, str] | None = None,
        tls: Mapping[str, object] | None = None,
        websockets: bool = False,
        lines: Sequence[str] = (),
    ) -> None:
        if _MOSQUITTO is None:
            pytest.skip("mosquitto is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.websocket_port = free_ports(2)
        self.url = f"mqtt://127.0.0.1:{self.port}" if tls is None else f"mqtts://localhost:{self.port}"
        self.log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        text = ["per_listener_settings false", "persistence false", "log_type all", f"user {getpass.getuser()}"]
        text += [f"allow_anonymous {'true' if users is None else 'false'}"]
        if max_packet_size is not None:
            text += [f"max_packet_size {max_packet_size}"]
        if users is not None:
            passwords = folder / "passwords"
            passwords.touch(mode=0o600)
            for name, password in users.items():
                subprocess.run(["mosquitto_passwd", "-b", passwords, name, password], check=True)
            text += [f"password_file {passwords}"]
        if websockets:
            text += [f"listener {self.websocket_port} 127.0.0.1", "socket_domain ipv4", "protocol websockets"]
            text += [f"{name} {value}" for name, value in (tls or {}).items()]
        text += [f"listener {self.port} 127.0.0.1"]
        text += [f"{name} {value}" for name, value in (tls or {}).items()]
        self._config.write_text("\n".join([*text, *lines]) + "\n")

    def start(self) -> None:
        """Start the process and wait until it accepts connections."""
        assert _MOSQUITTO is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([_MOSQUITTO, "-c", self._config], stdout=log, stderr=log)
        _wait_for_port(self.port, lambda: self._process is not None and self._process.poll() is None, self.log)

    def reload(self) -> None:
        """Make it read its password, ACL and revocation files again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def stop(self, *, kill: bool = False) -> None:
        """End the process; with `kill`, without a goodbye to its clients."""
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None


class Amqtt:
    """amqtt, a broker in Python that speaks only MQTT 3.1.1, in a thread; with `websockets`, only over WebSockets."""

    def __init__(self, *, websockets: bool = False) -> None:
        pytest.importorskip("amqtt", reason="amqtt is not installed")
        (self.port,) = free_ports(1)
        self.url = f"{'ws' if websockets else 'mqtt'}://127.0.0.1:{self.port}"
        listener = {"type": "ws" if websockets else "tcp", "bind": f"127.0.0.1:{self.port}"}
        plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        self._config = {"listeners": {"default": listener}, "plugins": plugins}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the broker and wait until it accepts connections."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="amqtt", daemon=True)
        self._thread.start()
        _wait_for_port(self.port, self._thread.is_alive)

    def stop(self) -> None:
        """Stop the broker, and end its thread."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=10)
            self._thread = self._loop = None

    async def _serve(self) -> None:
        from amqtt.broker import Broker  # noqa: PLC0415 - an optional dependency

        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        broker = Broker(self._config)
        await broker.start()
        await self._stopping.wait()
        await broker.shutdown()


def free_ports(number: int) -> list[int]:
    """Return ports of localhost that nothing listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_for_port(port: int, alive: Callable[[], bool], log: Path | None = None) -> None:
    deadline = time.monotonic() + 10
    with socket.socket() as probe:
        probe.settimeout(1)
        while probe.connect_ex(("127.0.0.1", port)):
            assert alive(), "the broker has ended" + ("" if log is None else f":\n{log.read_text()}")
            assert time.monotonic() < deadline, f"no broker on port {port}"
            time.sleep(0.02)
