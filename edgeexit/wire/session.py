"""A broker session that reconnects automatically: MQTT 5 with fallback to 3.1.1, exponential back-off with jitter.

The agent and the calibrator both use it. The session queues no messages: while the broker is not connected, `publish`
returns False, and the caller sends the message again from its outbox or database.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeexit.wire.broker_config import BrokerConfig
from edgeexit.wire.publication import PacketTooLargeError, Publication

_log = logging.getLogger(__name__)

_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 30.0
_CONNACK_TIMEOUT_S: Final = 10.0
_STABLE_S: Final = 30.0
"""A connection that lasted longer was stable: the back-off starts again with the first delay."""
_ATTEMPTS: Final = 2
"""Connections without a CONNACK after which the other protocol version is tried."""
_ATTEMPTS_PROVEN: Final = 10
"""The same after a connection with this version: then the broker probably restarts, and still supports the version."""
_NO_CONNACK: Final = "no CONNACK"
_UNSUPPORTED_PROTOCOL: Final = "Unsupported protocol version"


class _ConnectionEnd(Enum):
    """How a connection, or the attempt to connect, ended."""

    UNREACHABLE = "no TCP connection"
    NOT_ACCEPTED = "no CONNACK, or one that refuses the client"
    LOST = "the accepted connection was lost"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A received message. With `manual_ack`, the receiver calls `ack` when it has processed the message."""

    topic: str
    payload: bytes
    ack: Callable[[], object]
    retain: bool = False
    """True: the broker stored the message before this client subscribed."""
    qos: int = 1
    """QoS with which the message arrived: the lower one of the publisher's and the subscription's."""
    dup: bool = False
    """True: the broker sent the message before, and may not have received the acknowledgement."""


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a client's session at the broker."""

    client_id: str
    """Id of this client, the same at every start; the broker stores the session under this id."""
    subscriptions: tuple[str, ...] = ()
    """Topic filters; the client subscribes to them with QoS 1 at every connect."""
    will: tuple[str, bytes] | None = None
    """Topic and payload that the broker publishes (retained, QoS 1) when the connection is lost."""
    session_expiry_s: int = 24 * 3600
    """Seconds for which the broker stores subscriptions and queued messages while the client is offline; 0: each
    connection starts a clean session, and the broker sends the retained messages again."""
    manual_ack: bool = False
    """True: a message is acknowledged to the broker when the receiver calls `Delivery.ack`, not when it arrives."""
    receive_maximum: int | None = None
    """Maximum number of messages that the broker sends before they are acknowledged (MQTT 5); None: the broker's own
    limit."""


class BrokerSession:
    """Keeps a connection to the broker, in its own thread, from `start` until `stop`.

    All callbacks run in the network thread and must not block. Their exceptions are logged.

    Args:
        config: where the broker is.
        options: options of the session.
        on_message: receives a message.
        on_connect: called at every connect, after the client has sent its subscriptions.
        on_refused: receives the topic of a published message that the broker refuses, e.g. because of its ACL or a
            quota. The refusal is logged, too.
        on_progress: called when a publication is acknowledged, refused or ended.

    """

    def __init__(
        self,
        config: BrokerConfig,
        options: SessionOptions,
        *,
        on_message: Callable[[Delivery], None],
        on_connect: Callable[[], None] = lambda: None,
        on_refused: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._host, self._port, self._tls = config.endpoint()
        self._options = options
        self._on_message = on_message
        self._on_connect = on_connect
        self._on_refused = on_refused
        self._on_progress = on_progress
        self._publications: dict[int, Publication] = {}
        self._max_packet: int | None = None
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._proven = False
        self._connected_s = 0.0
        self._client: paho.Client | None = None
        self._last_publish: paho.MQTTMessageInfo | None = None
        self._unmatched: dict[int, tuple[str | None, Any]] = {}
        """Message id -> (topic, reason code), of which one is not known yet."""
        self._refusal = ""
        self._last_error = _NO_CONNACK
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{options.client_id}", daemon=True)

    @property
    def connected(self) -> bool:
        """True while this client is connected to the broker."""
        return self._connected.is_set()

    @property
    def last_error(self) -> str:
        """Why the last attempt to connect failed, or how the last connection ended."""
        return self._last_error

    @property
    def unacked_bytes(self) -> int:
        """Bytes of the packets that were published on this connection and are not acknowledged."""
        return sum(publication.size for publication in tuple(self._publications.values()))

    def max_payload(self, topic: str) -> int | None:
        """Return the maximum bytes of a payload on this topic that the broker accepts; None if it names no maximum."""
        return None if self._max_packet is None else max(0, self._max_packet - len(topic.encode()) - 16)

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until the client is connected; return False after the timeout."""
        return self._connected.wait(timeout_s)

    def start(self) -> None:
        """Start to connect, and to reconnect, in the background."""
        self._thread.start()

    def stop(self, *, drain_s: float = 2.0) -> None:
        """Wait up to `drain_s` until the broker has received the last message, then disconnect and end the thread."""
        if self.connected and self._last_publish is not None:
            self._last_publish.wait_for_publish(drain_s)
        self._stopping.set()
        if self._client is not None:
            self._client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None
    ) -> Publication | None:
        """Send a message at QoS 1. If there is no connection, return None and do not queue the message.

        With `expiry_s` and MQTT 5, the broker discards the message if it cannot deliver it within this time.

        Raises PacketTooLargeError if the payload is larger than the broker accepts.
        """
        client = self._client
        if client is None or not self.connected:
            return None
        limit = self.max_payload(topic)
        if limit is not None and len(payload) > limit:
            raise PacketTooLargeError(topic, size=len(payload), limit=limit)
        properties = None
        if expiry_s is not None and self._protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        publication = Publication(topic, len(topic.encode()) + len(payload) + 16)
        info = client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            return None
        self._publications[info.mid] = publication
        self._match(info.mid, topic=topic)
        self._last_publish = info
        return publication

    def _run(self) -> None:
        delay_s, not_accepted, logged = _FIRST_DELAY_S, 0, False
        while not self._stopping.is_set():
            self._refusal = ""
            end, reason = self._connect_once()
            self._last_error = reason
            if self._stopping.is_set():
                return
            if end is _ConnectionEnd.LOST:
                not_accepted, logged = 0, False
                _log.warning(
                    "lost the connection to the broker at %s:%s (%s); reconnecting", self._host, self._port, reason
                )
                if self._connected_s > _STABLE_S:
                    delay_s = _FIRST_DELAY_S
            elif not logged:
                logged = True
                _log.warning("cannot connect to the broker at %s:%s (%s); retrying", self._host, self._port, reason)
            if end is _ConnectionEnd.NOT_ACCEPTED:
                not_accepted += 1
                attempts = _ATTEMPTS_PROVEN if self._proven else _ATTEMPTS
                if not_accepted >= attempts or reason == _UNSUPPORTED_PROTOCOL:
                    self._change_protocol()
                    not_accepted = 0
            self._stopping.wait(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not cryptography
            delay_s = min(delay_s * 2, _MAX_DELAY_S)

    def _connect_once(self) -> tuple["_ConnectionEnd", str]:
        """Connect and run until the connection ends; return how it ended and why."""
        try:
            client = self._new_client()
            client.connect(self._host, self._port, keepalive=30, **self._connect_options())
        except (OSError, ValueError) as error:
            return _ConnectionEnd.UNREACHABLE, str(error)
        self._client = client
        accepted = False
        started = time.monotonic()
        try:
            while client.loop(timeout=0.5) == paho.MQTT_ERR_SUCCESS and not self._refusal:
                accepted = accepted or self.connected
                if self._stopping.is_set() and not client.is_connected():
                    break
                if not accepted and time.monotonic() - started > _CONNACK_TIMEOUT_S:
                    break
        except Exception:  # noqa: BLE001 - a malformed packet must not end the thread
            _log.exception("broker session failed; reconnecting")
        accepted = accepted or self.connected
        self._connected.clear()
        client.disconnect()
        self._unmatched.clear()
        while self._publications:
            self._publications.popitem()[1].end()
        self._call(self._on_progress)
        if accepted:
            self._proven = True
            self._connected_s = time.monotonic() - started
            return _ConnectionEnd.LOST, self._refusal or "connection closed"
        return _ConnectionEnd.NOT_ACCEPTED, self._refusal or _NO_CONNACK

    def _new_client(self) -> paho.Client:
        version5 = self._protocol == MQTTProtocolVersion.MQTTv5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._options.client_id,
            clean_session=None if version5 else self._options.session_expiry_s == 0,
            protocol=self._protocol,
            manual_ack=self._options.manual_ack,
        )
        client.on_connect = self._handle_connect
        client.on_message = self._handle_message
        client.on_publish = self._handle_publish
        client.on_subscribe = self._handle_subscribe
        client.on_disconnect = self._handle_disconnect
        # With this callback only the network thread writes to the socket. Otherwise paho also writes from the threads
        # that publish or acknowledge, packets are reordered, and brokers disconnect a client that acknowledges out of
        # order.
        client.on_socket_register_write = lambda *_: None
        if self._tls:
            client.tls_set(self._config.ca_file, self._config.certificate_file, self._config.key_file)
        if self._config.username is not None:
            client.username_pw_set(self._config.username, self._password())
        if self._options.will is not None:
            topic, payload = self._options.will
            client.will_set(topic, payload, qos=1, retain=True)
        return client

    def _connect_options(self) -> dict[str, Any]:
        if self._protocol != MQTTProtocolVersion.MQTTv5:
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._options.session_expiry_s
        return {"clean_start": self._options.session_expiry_s == 0, "properties": properties}

    def _change_protocol(self) -> None:
        version5, version3 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
        self._protocol = version3 if self._protocol == version5 else version5
        self._proven = False
        _log.warning("trying to connect with MQTT %s", "3.1.1" if self._protocol == version3 else "5")

    def _password(self) -> str | None:
        if self._config.password_file is None:
            return None
        with open(self._config.password_file, encoding="utf-8") as file:  # noqa: PTH123 - reads only the first line
            return file.readline().rstrip("\n")

    def _handle_connect(self, client: paho.Client, _user: object, _flags: object, code: Any, _props: object) -> None:
        if code.is_failure:
            self._refusal = str(code)
            return
        self._max_packet = getattr(_props, "MaximumPacketSize", None)
        for topic in self._options.subscriptions:
            client.subscribe(topic, qos=1)
        self._connected.set()
        _log.info("connected to the broker at %s:%s", self._host, self._port)
        self._call(self._on_connect)

    def _handle_disconnect(
        self, _client: paho.Client, _user: object, _flags: object, code: Any, _props: object
    ) -> None:
        if code.is_failure:
            taken_over = "taken over" in str(code)
            self._refusal = (
                f"{code}: does another client use the id '{self._options.client_id}'?" if taken_over else str(code)
            )

    def _handle_publish(self, _client: paho.Client, _user: object, mid: int, code: Any, _props: object) -> None:
        self._match(mid, code=code)

    def _match(self, mid: int, *, topic: str | None = None, code: Any = None) -> None:
        """Match the topic of a published message with the broker's reason code, and log a refusal.

        Called once with the topic and once with the code, in any order. There is no lock, because paho holds its own
        lock in the callback and needs it in `publish`.
        """
        first = self._unmatched.setdefault(mid, (topic, code))
        if first == (topic, code):
            return
        self._unmatched.pop(mid, None)
        if (publication := self._publications.pop(mid, None)) is not None:
            refused = code if code is not None else first[1]
            publication.acknowledge(str(refused) if refused is not None and refused.is_failure else None)
            self._call(self._on_progress)
        topic, code = topic or first[0], code or first[1]
        if code is not None and code.is_failure:
            _log.warning("the broker refuses a message on %s: %s", topic, code)
            self._call(self._on_refused, topic)

    def _handle_subscribe(
        self, _client: paho.Client, _user: object, _mid: int, codes: Sequence[Any], _props: object
    ) -> None:
        for code in codes:
            if code.is_failure:
                _log.warning(
                    "the broker refuses one of the subscriptions %s: %s", ", ".join(self._options.subscriptions), code
                )

    def _handle_message(self, client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        def ack() -> object:
            return client.ack(message.mid, message.qos)

        delivery = Delivery(
            topic=message.topic,
            payload=bytes(message.payload),
            ack=ack,
            retain=message.retain,
            qos=message.qos,
            dup=message.dup,
        )
        self._call(self._on_message, delivery)

    @staticmethod
    def _call(function: Callable[..., None], *arguments: object) -> None:
        """Call a callback in the network thread; its exceptions must not end the thread."""
        try:
            function(*arguments)
        except Exception:  # noqa: BLE001 - see above
            _log.exception("a callback of the broker session failed")
