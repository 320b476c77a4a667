"""A mosquitto broker with the files of `edgeexit keys fleet`, and clients with the certificates of that fleet."""

import getpass
import queue
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeexit.pki.broker_files import BROKER_FOLDER
from tests.broker import Mosquitto, free_ports

STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
"""What Python 3.13 verifies by default."""
WAIT_S = 10.0


class FleetBroker(Mosquitto):
    """mosquitto with the `mosquitto.conf` in `keys / "broker"`; only its paths, its ports and its log differ.

    With `websockets`, the example of a listener for WebSockets is used, too, on `websocket_port`. The example of a
    listener for several calibrators always is, at `calibrators_url`.
    """

    def __init__(self, keys: Path, folder: Path, *, websockets: bool = False) -> None:
        super().__init__(folder, tls={})
        text = (keys / "broker" / "mosquitto.conf").read_text()
        text = text.replace(BROKER_FOLDER, str(keys / "broker")).replace("listener 8883", f"listener {self.port}")
        [port] = free_ports(1)
        self.calibrators_url = f"mqtts://localhost:{port}"
        text = _with_example(text, 8884, port)
        if websockets:
            text = _with_example(text, 443, self.websocket_port)
        text = text.replace("/var/lib/mosquitto/", f"{folder}/")
        self._config.write_text(f"{text}\nuser {getpass.getuser()}\nlog_type all\n")

    def reload(self) -> None:
        """Reload, and wait until it is done."""
        reloads = self._reloads()
        super().reload()
        deadline = time.monotonic() + WAIT_S
        while self._reloads() == reloads:
            assert time.monotonic() < deadline, "mosquitto does not reload"
            time.sleep(0.01)

    def _reloads(self) -> int:
        return self.log.read_text().count("Reloading config.")


def _with_example(text: str, example_port: int, port: int) -> str:
    """Return the configuration with the listener of an example, on another port."""
    before, example = text.split(f"# listener {example_port}\n")
    example, after = example.split("\n\n", 1)
    lines = [f"listener {port}", *(line.removeprefix("# ") for line in example.splitlines())]
    return before + "\n".join(lines) + "\n\n" + after


def client_context(ca: Path, files: Path | None) -> ssl.SSLContext:
    """Return the context of a client that verifies the broker strictly."""
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags |= STRICT
    if files is not None:
        context.load_cert_chain(files / "tls.crt", files / "tls.key")
    return context


class FleetClient:
    """An MQTT client with the certificate in `files`, or without one; use it in a `with` block."""

    def __init__(
        self,
        broker: Mosquitto,
        ca: Path,
        files: Path | None,
        *,
        client_id: str = "any",
        will: tuple[str, bytes] | None = None,
        protocol: int = paho.MQTTv5,
    ) -> None:
        self._version5 = protocol == paho.MQTTv5
        self._broker = broker
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.connected = threading.Event()
        self.ended = threading.Event()
        self._codes: dict[int, Any] = {}
        self._changed = threading.Condition()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, reconnect_on_failure=False
        )
        self._client.tls_set_context(client_context(ca, files))
        if will is not None:
            self._client.will_set(*will, qos=1)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda *_: self.ended.set()
        self._client.on_publish = lambda _c, _u, mid, code, _p: self._on_code(mid, code)
        self._client.on_subscribe = lambda _c, _u, mid, codes, _p: self._on_code(mid, codes[0])
        self._client.on_message = lambda _c, _u, message: self.received.put((message.topic, message.payload))

    def __enter__(self) -> "FleetClient":
        assert self.connects(), "the broker does not accept this client"
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def connects(self) -> bool:
        """Connect, and return whether the broker accepts the client."""
        try:
            self._client.connect("localhost", self._broker.port)
        except OSError:
            return False
        self._client.loop_start()
        while not self.connected.wait(0.02):
            if self.ended.is_set():
                self._client.loop_stop()
                return False
        return True

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> bool:
        """Publish with QoS 1 and return whether the broker takes the message."""
        return not self._code(self._client.publish(topic, payload, qos=1, retain=retain).mid).is_failure

    def subscribe(self, *filters: str) -> None:
        for one in filters:
            options = {"options": SubscribeOptions(qos=1, noLocal=True)} if self._version5 else {"qos": 1}
            _, mid = self._client.subscribe(one, **options)
            self._code(mid)

    def topics_until(self, last: str) -> list[str]:
        """Return the topics of the messages that arrived until the one on `last`, without it."""
        topics = []
        while (topic := self.received.get(timeout=WAIT_S)[0]) != last:
            topics.append(topic)
        return topics

    def _on_connect(self, _client: object, _user: object, _flags: object, code: Any, _properties: object) -> None:
        (self.ended if code.is_failure else self.connected).set()

    def _on_code(self, mid: int, code: Any) -> None:
        with self._changed:
            self._codes[mid] = code
            self._changed.notify_all()

    def _code(self, mid: int) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: mid in self._codes or self.ended.is_set(), WAIT_S), "no answer"
            return self._codes.pop(mid)
