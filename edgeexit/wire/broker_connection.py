"""One connection to the broker, from TCP to its end, in the thread of the session.

All calls of paho happen in this thread; other threads only append to queues and wake it.
"""

import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from edgeexit.wire.acknowledgements import Acknowledgements
from edgeexit.wire.broker_config import BrokerConfig
from edgeexit.wire.broker_limits import BrokerLimits
from edgeexit.wire.bulk_client import BulkClient
from edgeexit.wire.callbacks import SessionCallbacks
from edgeexit.wire.ending_reason import EndingReason
from edgeexit.wire.failure_reason import failure_reason
from edgeexit.wire.incoming import Incoming
from edgeexit.wire.mqtt_client import MqttClient
from edgeexit.wire.outgoing import Outgoing
from edgeexit.wire.packet_codec import Publish
from edgeexit.wire.packet_loop import PacketLoop
from edgeexit.wire.publication import Publication
from edgeexit.wire.reconnecting import ConnectionEnd, Ending, Version
from edgeexit.wire.session_options import SessionOptions
from edgeexit.wire.tcp_connection import ConnectGuard
from edgeexit.wire.wakeup import Wakeup

_CONNECT_LIMIT_S: Final = 60.0
_CONNACK_TIMEOUT_S: Final = 15.0
_SUBACK_TIMEOUT_S: Final = 60.0
_DISCONNECT_TIMEOUT_S: Final = 1.0
_WAIT_S: Final = 60.0


class BrokerConnection:
    """One attempt to connect, and the connection. `run` blocks until it ends; the other methods are thread-safe.

    Args:
        config: where the broker is.
        options: options of the session.
        version: version of MQTT.
        callbacks: of the session.
        on_connect: called after the broker has accepted the connection and before the callbacks of the session.
        will_limits: what the broker accepts of a will, as far as it is known from earlier connections.

    """

    def __init__(
        self,
        config: BrokerConfig,
        options: SessionOptions,
        version: Version,
        callbacks: SessionCallbacks,
        *,
        on_connect: Callable[[], None],
        will_limits: BrokerLimits,
    ) -> None:
        self._endpoint = config.endpoint()
        self._options = options
        self._callbacks = callbacks
        self._on_connect = on_connect
        self._guard = ConnectGuard(_CONNECT_LIMIT_S)
        kind = BulkClient if callbacks.takes_batches else MqttClient
        self._client = kind(config, options, version, self._guard, will_limits=will_limits)
        self._client.on_connect = self._handle_connect
        self._client.on_message = self._handle_message
        self._client.on_publish = self._handle_publish
        self._client.on_subscribe = self._handle_subscribe
        self._client.on_disconnect = self._handle_disconnect
        self.outgoing = Outgoing(self._client, callbacks)
        self.reason = EndingReason(options.client_id)
        self._wakeup = Wakeup()
        self.acknowledgements = Acknowledgements(self._wakeup)
        self._incoming = Incoming(callbacks, options, self.acknowledgements)
        if isinstance(self._client, BulkClient):
            self._client.on_publishes = self._incoming.receive
            self._client.is_receiver_busy = self._incoming.has_backlog
        self._connected_at: float | None = None
        self._is_connected = False
        self._is_silent = False
        self._closing = threading.Event()
        self._is_subscribed = False
        self._suback_due: float | None = None
        self._subscription_problem: str | None = None

    @property
    def connected(self) -> bool:
        """True from the CONNACK until the end."""
        return self._is_connected

    @property
    def problem(self) -> str | None:
        """What does not work although the client is connected."""
        return self._subscription_problem or self.outgoing.limits.problem

    def publish(self, topic: str, payload: bytes, *, retain: bool, expiry_s: int | None) -> Publication | None:
        """Queue a message; return None if the client is not connected."""
        publication = self.outgoing.publish(topic, payload, retain=retain, expiry_s=expiry_s)
        self._wakeup.wake()
        return publication

    def publish_unconfirmed(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Queue messages with QoS 0; return False if the client is not connected, or if too much waits already."""
        is_queued = self.outgoing.publish_unconfirmed(messages)
        self._wakeup.wake()
        return is_queued

    def close(self) -> None:
        """Disconnect: `run` ends within about a second, unless a host name is being resolved."""
        self._closing.set()
        self._guard.abort()
        self._wakeup.wake()

    def run(self) -> Ending:
        """Connect, and process packets until the connection ends; return how and why it ended."""
        try:
            if self._closing.is_set():
                return Ending(ConnectionEnd.UNREACHABLE, "stopped")
            try:
                with self._guard:
                    self._client.open()
            except Exception as error:  # noqa: BLE001 - paho raises many kinds, and the thread must not end
                return Ending(ConnectionEnd.UNREACHABLE, self._connect_failure(error))
            try:
                self._process_packets()
            except OSError as error:
                self.reason.add(failure_reason(error, self._endpoint, tcp_connected=True, handshake_done=True))
            except Exception as error:  # noqa: BLE001 - paho raises many kinds for malformed packets
                self.reason.add(f"the broker sent a malformed packet ({type(error).__name__}: {error})")
            return self._ending()
        finally:
            self._is_connected = False
            self.outgoing.end()
            self._wakeup.close()
            self._client.close()

    def _process_packets(self) -> None:
        connack_due = time.monotonic() + _CONNACK_TIMEOUT_S
        disconnect_due: float | None = None
        with PacketLoop(self._client, self._wakeup, is_paused=self._is_paused) as loop:
            while loop.is_open:
                now = time.monotonic()
                if self._closing.is_set() and disconnect_due is None:
                    disconnect_due = now + _DISCONNECT_TIMEOUT_S
                    self._send_encoded()
                    self._client.disconnect()
                if disconnect_due is not None and now >= disconnect_due:
                    break
                if self._connected_at is None and now >= connack_due:
                    self._is_silent = True
                    self.reason.add(f"no answer to CONNECT within {_CONNACK_TIMEOUT_S:g} s")
                    break
                self._check_suback(now)
                self._callbacks.repeats.flush()
                loop.flush()
                if not self._client.want_write():
                    self._send_encoded()
                    loop.flush()  # no message is handed over while an acknowledgement waits
                self.outgoing.hand_over()
                due = [one for one in (disconnect_due, self._suback_due) if one is not None]
                if self._connected_at is None:
                    due.append(connack_due)
                try:
                    loop.step(0.0 if self.outgoing.can_hand_over else min(due, default=now + _WAIT_S) - now)
                finally:
                    self._incoming.deliver()
        self.reason.add_old_connack(self._client.first_packet)
        if loop.problem is not None:
            self.reason.add_foreign(loop.problem)
        if loop.result == MQTTErrorCode.MQTT_ERR_PROTOCOL:
            self.reason.add("the broker sent a malformed packet")

    def _is_paused(self) -> bool:
        """Return True while nothing is to be read; CONNACK and SUBACK are."""
        return self._incoming.is_full() or (self._is_subscribed and not self._callbacks.may_receive())

    def _send_encoded(self) -> None:
        """Hand the acknowledgements and the messages with QoS 0 to the client, as one buffer."""
        packets = self.acknowledgements.take() + self.outgoing.take_unconfirmed()
        if packets:
            self._client.send_raw(b"".join(packets))

    def _connect_failure(self, error: Exception) -> str:
        if self._guard.expired:
            return f"timeout: no connection within {_CONNECT_LIMIT_S:g} s"
        client = self._client
        return failure_reason(error, self._endpoint, tcp_connected=client.tcp_connected, http_status=client.http_status)

    def _ending(self) -> Ending:
        """Return how the connection ended; a reason that the broker stated comes before what the client observed."""
        reason, error = self.reason, self._client.socket_error
        if error is not None:
            reason.add(failure_reason(error, self._endpoint, tcp_connected=True, handshake_done=True))
        if self._connected_at is not None:
            text = reason.text or "the broker closed the connection"
            lasted_s = time.monotonic() - self._connected_at
            return Ending(
                ConnectionEnd.LOST,
                text,
                lasted_s=lasted_s,
                unexplained=reason.text is None,
                taken_over=reason.taken_over,
            )
        text = reason.text or "the broker closed the connection instead of answering CONNECT" + (
            "" if self._endpoint.tls else "; does it expect TLS on this port? Then write mqtts:// or wss://"
        )
        end = reason.end or ConnectionEnd.UNANSWERED
        if isinstance(error, ssl.SSLError):  # an alert rejects the client's certificate
            end = ConnectionEnd.UNREACHABLE
        return Ending(end, text, silent=self._is_silent)

    def _check_suback(self, now: float) -> None:
        if self._suback_due is not None and now >= self._suback_due:
            self._suback_due = None
            self._report_subscription(f"the broker does not answer the subscription to {self._filters}")

    def _report_subscription(self, problem: str) -> None:
        self._subscription_problem = problem
        self._callbacks.repeats.warning(problem, "%s; this client is connected, but gets no messages", problem)

    @property
    def _filters(self) -> str:
        return ", ".join(f"'{one}'" for one in self._options.subscriptions)

    def _handle_connect(self, client: paho.Client, _user: object, _flags: object, code: Any, properties: Any) -> None:
        if code.is_failure:
            self.reason.add_connack(code, properties)
            return
        if self._connected_at is not None:
            raise ValueError("a second CONNACK")
        self._connected_at = time.monotonic()
        if self._options.subscriptions:
            client.subscribe([(one, 1) for one in self._options.subscriptions])
            self._suback_due = self._connected_at + _SUBACK_TIMEOUT_S
        self.outgoing.open(BrokerLimits.from_connack(properties))
        self._is_connected = True
        self._on_connect()
        self._callbacks.connected()

    def _handle_disconnect(self, _client: paho.Client, _user: object, flags: Any, code: Any, properties: Any) -> None:
        self.reason.add_disconnect(code, properties, from_broker=flags.is_disconnect_packet_from_server)

    def _handle_publish(self, _client: paho.Client, _user: object, mid: int, code: Any, _properties: object) -> None:
        self.outgoing.acknowledge(mid, code)

    def _handle_subscribe(
        self, _client: paho.Client, _user: object, _mid: int, codes: Sequence[Any], _properties: object
    ) -> None:
        self._suback_due = None
        self._is_subscribed = True
        self._subscription_problem = None
        for topic, code in zip(self._options.subscriptions, codes, strict=False):
            if code.is_failure:
                self._report_subscription(f"the broker refuses the subscription to '{topic}': {code}")
        if len(codes) < len(self._options.subscriptions):
            self._report_subscription(f"the broker answers only {len(codes)} of the subscriptions to {self._filters}")

    def _handle_message(self, _client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        is_cut = self._client.is_oversized
        payload = b"" if is_cut else bytes(message.payload)
        topic = message._topic  # noqa: SLF001 - `topic` raises an error if it is not UTF-8
        one = Publish(topic, payload, message.mid, message.qos, message.retain, message.dup, is_cut)
        self._incoming.receive([one])
