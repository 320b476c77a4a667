"""A broker session that comes back by itself: MQTT 5 with 3.1.1 as a fallback, back-off with jitter.

Device and calibrator both speak through it. Nothing that matters is kept here: what is published while the broker
is away is refused, and the caller's outbox or database sends it again.
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

_log = logging.getLogger(__name__)

_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 30.0
_CONNACK_S: Final = 10.0
_SETTLED_S: Final = 30.0
"""A connection that lasted as long was a good one: the next outage is met with short delays again."""
_TRIES: Final = 2
"""Connections without an answer after which the other protocol version is tried."""
_TRIES_PROVEN: Final = 10
"""The same, once this version has worked: then the broker is more likely restarting than replaced."""
_NO_ANSWER: Final = "it does not answer"
_UNSUPPORTED_PROTOCOL: Final = "Unsupported protocol version"


class _Ending(Enum):
    """How an attempt to connect ended."""

    UNREACHABLE = "no connection"
    UNANSWERED = "a connection, but no CONNACK or a refusal"
    LOST = "a session that is over"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message that came in; call `ack` when it is dealt with (only needed with `manual_ack`)."""

    topic: str
    payload: bytes
    ack: Callable[[], object]


class BrokerSession:
    """A connection to the broker that is kept up by its own thread until `stop`.

    Args:
        config: where the broker is.
        client_id: stable name of this client; the broker keeps its session under it.
        subscriptions: topic filters, QoS 1, renewed at every connect.
        on_message: called in the network thread; must not block. An exception is logged, never fatal.
        on_connect: called in the network thread after subscribing, at every connect.
        will: topic and payload that the broker publishes (retained, QoS 1) when this client is lost.
        session_expiry_s: how long the broker keeps subscriptions and queued messages while away; 0: every connection
            starts clean, and then every broker sends the retained messages again.
        manual_ack: messages are acknowledged to the broker by `Delivery.ack`, not on arrival.
        on_refused: called in the network thread with the topic of a published message that the broker refuses (its
            ACL, a quota); it has been logged.

    """

    def __init__(
        self,
        config: BrokerConfig,
        *,
        client_id: str,
        subscriptions: Sequence[str],
        on_message: Callable[[Delivery], None],
        on_connect: Callable[[], None] = lambda: None,
        will: tuple[str, bytes] | None = None,
        session_expiry_s: int = 24 * 3600,
        manual_ack: bool = False,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._host, self._port, self._tls = config.endpoint()
        self._client_id = client_id
        self._subscriptions = tuple(subscriptions)
        self._on_message = on_message
        self._on_connect = on_connect
        self._will = will
        self._session_expiry_s = session_expiry_s
        self._manual_ack = manual_ack
        self._on_refused = on_refused
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._proven = False
        self._connected_s = 0.0
        self._client: paho.Client | None = None
        self._last_publish: paho.MQTTMessageInfo | None = None
        self._half_known: dict[int, tuple[str | None, Any]] = {}
        self._refusal = ""
        self._trouble = _NO_ANSWER
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name=f"mqtt-{client_id}", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted this client and not been lost since."""
        return self._connected.is_set()

    @property
    def trouble(self) -> str:
        """Why the last attempt to connect failed, or how the last connection ended."""
        return self._trouble

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait for a connection; return whether there is one."""
        return self._connected.wait(timeout_s)

    def start(self) -> None:
        """Begin to connect, and go on trying, in the background."""
        self._thread.start()

    def stop(self, *, drain_s: float = 2.0) -> None:
        """Wait up to `drain_s` for the broker to take the last message, then disconnect and end the thread."""
        if self.connected and self._last_publish is not None:
            self._last_publish.wait_for_publish(drain_s)
        self._stopping.set()
        if self._client is not None:
            self._client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None) -> bool:
        """Hand a message to the broker at QoS 1; return False, without keeping it, when there is no connection."""
        client = self._client
        if client is None or not self.connected:
            return False
        properties = None
        if expiry_s is not None and self._protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        info = client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            return False
        self._match(info.mid, topic=topic)
        self._last_publish = info
        return True

    def _keep_up(self) -> None:
        delay_s, unanswered, told = _FIRST_DELAY_S, 0, False
        while not self._stopping.is_set():
            self._refusal = ""
            ending, reason = self._connect_once()
            self._trouble = reason
            if self._stopping.is_set():
                return
            if ending is _Ending.LOST:
                unanswered, told = 0, False
                _log.warning("lost the broker at %s:%s (%s); reconnecting", self._host, self._port, reason)
                if self._connected_s > _SETTLED_S:
                    delay_s = _FIRST_DELAY_S
            elif not told:
                told = True
                _log.warning("broker %s:%s is not reachable (%s); retrying", self._host, self._port, reason)
            if ending is _Ending.UNANSWERED:
                unanswered += 1
                patience = _TRIES_PROVEN if self._proven else _TRIES
                if unanswered >= patience or reason == _UNSUPPORTED_PROTOCOL:
                    self._change_protocol()
                    unanswered = 0
            self._stopping.wait(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads a fleet, no secret
            delay_s = min(delay_s * 2, _MAX_DELAY_S)

    def _connect_once(self) -> tuple["_Ending", str]:
        """Connect and stay until the connection ends; return how it ended, and why there was none."""
        try:
            client = self._new_client()
            client.connect(self._host, self._port, keepalive=30, **self._connect_options())
        except (OSError, ValueError) as error:
            return _Ending.UNREACHABLE, str(error)
        self._client = client
        came_up = False
        started = time.monotonic()
        try:
            while client.loop(timeout=0.5) == paho.MQTT_ERR_SUCCESS and not self._refusal:
                came_up = came_up or self.connected
                if self._stopping.is_set() and not client.is_connected():
                    break
                if not came_up and time.monotonic() - started > _CONNACK_S:
                    break
        except Exception:  # noqa: BLE001 - a broken packet must not end the thread
            _log.exception("broker session failed; reconnecting")
        came_up = came_up or self.connected
        self._connected.clear()
        client.disconnect()
        self._half_known.clear()
        if came_up:
            self._proven = True
            self._connected_s = time.monotonic() - started
            return _Ending.LOST, self._refusal or "the connection broke"
        return _Ending.UNANSWERED, self._refusal or _NO_ANSWER

    def _new_client(self) -> paho.Client:
        version5 = self._protocol == MQTTProtocolVersion.MQTTv5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if version5 else self._session_expiry_s == 0,
            protocol=self._protocol,
            manual_ack=self._manual_ack,
        )
        client.on_connect = self._connected_callback
        client.on_message = self._message_callback
        client.on_publish = self._published_callback
        client.on_subscribe = self._subscribed_callback
        client.on_disconnect = self._disconnected_callback
        # Leaves all writing to the network thread, which this wakes. Otherwise paho writes from whatever thread
        # publishes or acknowledges, packets overtake each other, and brokers end connections for acks out of order.
        client.on_socket_register_write = lambda *_: None
        if self._tls:
            client.tls_set(self._config.ca_file, self._config.certificate_file, self._config.key_file)
        if self._config.username is not None:
            client.username_pw_set(self._config.username, self._password())
        if self._will is not None:
            topic, payload = self._will
            client.will_set(topic, payload, qos=1, retain=True)
        return client

    def _connect_options(self) -> dict[str, Any]:
        if self._protocol != MQTTProtocolVersion.MQTTv5:
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session_expiry_s
        return {"clean_start": self._session_expiry_s == 0, "properties": properties}

    def _change_protocol(self) -> None:
        five, older = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
        self._protocol = older if self._protocol == five else five
        self._proven = False
        _log.warning("trying MQTT %s", "3.1.1" if self._protocol == older else "5")

    def _password(self) -> str | None:
        if self._config.password_file is None:
            return None
        with open(self._config.password_file, encoding="utf-8") as file:  # noqa: PTH123 - one line of a small file
            return file.readline().rstrip("\n")

    def _connected_callback(
        self, client: paho.Client, _user: object, _flags: object, code: Any, _props: object
    ) -> None:
        if code.is_failure:
            self._refusal = str(code)
            return
        for topic in self._subscriptions:
            client.subscribe(topic, qos=1)
        self._connected.set()
        _log.info("connected to the broker at %s:%s", self._host, self._port)
        self._call(self._on_connect)

    def _disconnected_callback(
        self, _client: paho.Client, _user: object, _flags: object, code: Any, _props: object
    ) -> None:
        if code.is_failure:
            taken_over = "taken over" in str(code)
            self._refusal = f"{code}: is there another '{self._client_id}'?" if taken_over else str(code)

    def _published_callback(self, _client: paho.Client, _user: object, mid: int, code: Any, _props: object) -> None:
        self._match(mid, code=code)

    def _match(self, mid: int, *, topic: str | None = None, code: Any = None) -> None:
        """Bring a published message's topic and the broker's answer together; whichever comes second tells.

        No lock: paho holds its own in the callback and wants it in `publish`.
        """
        first = self._half_known.setdefault(mid, (topic, code))
        if first == (topic, code):
            return
        self._half_known.pop(mid, None)
        topic, code = topic or first[0], code or first[1]
        if code is not None and code.is_failure:
            _log.warning("the broker refuses a message on %s: %s", topic, code)
            self._call(self._on_refused, topic)

    def _subscribed_callback(
        self, _client: paho.Client, _user: object, _mid: int, codes: Sequence[Any], _props: object
    ) -> None:
        for code in codes:
            if code.is_failure:
                _log.warning("the broker refuses one of the subscriptions %s: %s", ", ".join(self._subscriptions), code)

    def _message_callback(self, client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        def ack() -> object:
            return client.ack(message.mid, message.qos)

        self._call(self._on_message, Delivery(topic=message.topic, payload=bytes(message.payload), ack=ack))

    @staticmethod
    def _call(function: Callable[..., None], *arguments: object) -> None:
        """Call the owner's code in the network thread, which must outlive whatever that raises."""
        try:
            function(*arguments)
        except Exception:  # noqa: BLE001 - see above
            _log.exception("in the network thread")
