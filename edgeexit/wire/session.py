"""A session at the broker that reconnects by itself: MQTT 5 with fallback to 3.1.1, back-off with jitter.

The agent and the calibrator both use it. It queues nothing while the broker is not connected: `publish` returns None,
and the caller sends the message again from its outbox or database. Nothing of a connection that ended is sent again.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from edgeexit.limited_log import LimitedLog
from edgeexit.wire.broker_config import BrokerConfig
from edgeexit.wire.broker_connection import BrokerConnection
from edgeexit.wire.broker_limits import BrokerLimits
from edgeexit.wire.callbacks import SessionCallbacks
from edgeexit.wire.publication import Publication
from edgeexit.wire.reconnecting import ConnectionEnd, Ending, Reconnecting, Version
from edgeexit.wire.session_options import Delivery, SessionOptions

_log = logging.getLogger(__name__)

_JOIN_TIMEOUT_S: Final = 3.0
_SUSPICIOUS: Final = 3
"""Connections in a row that the broker closed soon and without a reason: mosquitto gives none for a takeover."""
_SHORT_S: Final = 60.0
_MAY_CONNECT_S: Final = 0.5


class BrokerSession:
    """Keeps a connection to the broker, in its own thread, from `start` until `stop`.

    All callbacks run in the network thread and must not block. Their exceptions are logged.

    Args:
        config: where the broker is.
        options: options of the session.
        on_message: receives a message.
        on_messages: receives the messages that have arrived since the last call, instead of `on_message`: much cheaper
            for thousands of messages per second.
        on_connect: called at every connect, after the client has sent its subscriptions.
        on_refused: receives the topic of a published message that the broker refuses, e.g. because of its ACL or a
            quota. The refusal is logged, too.
        on_progress: called when a publication is acknowledged, refused or ended.
        may_receive: asked before each read, once subscribed; while False, nothing is read, and the broker waits.
        may_connect: asked before every attempt to connect, also the first; while False, there is none. So a process
            whose session another one has taken over does not take it back.

    Attributes:
        taken_over: number of connections that ended because another client with the same id has connected.

    """

    def __init__(
        self,
        config: BrokerConfig,
        options: SessionOptions,
        *,
        on_message: Callable[[Delivery], None] | None = None,
        on_messages: Callable[[list[Delivery]], None] | None = None,
        on_connect: Callable[[], None] = lambda: None,
        on_refused: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[], None] = lambda: None,
        may_connect: Callable[[], bool] = lambda: True,
        may_receive: Callable[[], bool] = lambda: True,
    ) -> None:
        self.taken_over = 0
        self._may_connect = may_connect
        self._config = config
        self._options = options
        endpoint = config.endpoint()
        self._place = f"{endpoint.host}:{endpoint.port}"
        self._repeats = LimitedLog(_log)
        receiver = on_messages or on_message
        if receiver is None or (on_messages and on_message):
            raise TypeError("a session needs either on_message or on_messages")
        self._callbacks = SessionCallbacks(
            receiver,
            on_connect,
            on_refused,
            on_progress,
            repeats=self._repeats,
            takes_batches=on_messages is not None,
            may_receive=may_receive,
        )
        self._reconnecting = Reconnecting()
        self._will_limits = BrokerLimits()
        self._lock = threading.Lock()
        self._connection: BrokerConnection | None = None
        self._last_error = "not connected yet"
        self._unexplained = 0
        self._logged: str | None = None
        """The reason that the last line of the log names; None after a connect."""
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{options.client_id}", daemon=True)

    @property
    def connected(self) -> bool:
        """True while this client is connected to the broker."""
        return self._connected.is_set()

    @property
    def version(self) -> Version:
        """The version of MQTT of the present or the next connection."""
        return self._reconnecting.version

    @property
    def last_error(self) -> str:
        """One line: why the last attempt to connect failed, or how the last connection ended."""
        return self._last_error

    @property
    def problem(self) -> str | None:
        """One line: why the client is not connected, or what does not work although it is, e.g. a subscription."""
        connection = self._connection
        return connection.problem if connection is not None and self.connected else self._last_error

    @property
    def unacked_bytes(self) -> int:
        """Bytes of the packets that were published on this connection and are not acknowledged."""
        connection = self._connection
        return 0 if connection is None else connection.outgoing.unacked_bytes

    def max_payload(self, topic: str) -> int | None:
        """Return the maximum bytes of a payload on this topic that the broker accepts; None if it names no maximum."""
        connection = self._connection
        return None if connection is None else connection.outgoing.limits.max_payload(topic)

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until the client is connected; return False after the timeout."""
        return self._connected.wait(timeout_s)

    def start(self) -> None:
        """Start to connect, and to reconnect, in the background."""
        self._thread.start()

    def stop(self, *, drain_s: float = 2.0) -> None:
        """Wait up to `drain_s` until the broker has received all messages, then disconnect and end the thread.

        Returns after at most `drain_s` + 3 seconds.
        """
        deadline = time.monotonic() + drain_s
        connection = self._connection
        in_thread = threading.current_thread() is self._thread
        for publication in [] if connection is None or in_thread else connection.outgoing.unfinished():
            publication.wait(max(0.0, deadline - time.monotonic()))
        with self._lock:
            self._stopping.set()
            connection = self._connection
        if connection is not None:
            connection.close()
        if self._thread.is_alive() and not in_thread:
            self._thread.join(timeout=_JOIN_TIMEOUT_S)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None
    ) -> Publication | None:
        """Send a message at QoS 1. If there is no connection, return None and do not queue the message.

        It is also None while 32 MiB of messages wait for the broker, which takes them too slowly.
        With `expiry_s` and MQTT 5, the broker discards the message if it cannot deliver it within this time.

        Raises PacketTooLargeError if the payload is larger than the broker accepts, and MessageError for a topic that
        is not valid.
        """
        connection = self._connection
        return None if connection is None else connection.publish(topic, payload, retain=retain, expiry_s=expiry_s)

    def publish_unconfirmed(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Send (topic, payload) pairs with QoS 0, in one write; they can get lost, and overtake those of `publish`.

        Returns False, and sends none, if there is no connection or if 32 MiB wait for the broker. Messages that are
        larger than the broker accepts are logged and left out. Raises MessageError for a topic that is not valid.
        """
        connection = self._connection
        return connection is not None and connection.publish_unconfirmed(messages)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages to the broker, in this order, at the cost of one; thread-safe.

        Those of a connection that has ended are left out: the broker sends them again on the next one.
        """
        connection = self._connection
        if connection is not None:
            connection.acknowledgements.acknowledge(deliveries)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._may_connect():
                    self._stopping.wait(_MAY_CONNECT_S)
                    continue
                ending = self._connect_once()
            except OSError as error:  # no descriptor is free
                ending = Ending(ConnectionEnd.UNREACHABLE, error.strerror or str(error))
            except Exception as error:  # noqa: BLE001 - the thread must not end
                self._repeats.error(type(error).__name__, "the broker session failed: %s", error, exc_info=error)
                ending = Ending(ConnectionEnd.UNREACHABLE, f"{type(error).__name__}: {error}")
            if self._stopping.is_set():
                break
            self._record(ending)
            before = self.version
            delay_s = self._reconnecting.ended(ending, now=time.monotonic())
            if self.version != before:
                self._repeats.info(self.version, "next attempt with MQTT %s", self.version)
            self._repeats.flush()
            self._stopping.wait(delay_s)
        self._repeats.close()

    def _connect_once(self) -> Ending:
        connection = BrokerConnection(
            self._config,
            self._options,
            self.version,
            self._callbacks,
            on_connect=self._handle_connect,
            will_limits=self._will_limits,
        )
        with self._lock:
            if self._stopping.is_set():
                connection.close()
            self._connection = connection
        try:
            return connection.run()
        finally:
            self._connected.clear()
            reason = connection.reason
            if reason.retain_refused or reason.qos_refused:
                self._will_limits = msgspec.structs.replace(
                    self._will_limits,
                    retain=self._will_limits.retain and not reason.retain_refused,
                    max_qos=0 if reason.qos_refused else self._will_limits.max_qos,
                )

    def _handle_connect(self) -> None:
        """Record a new connection, before the callback of the session."""
        self._reconnecting.accepted()
        self._logged = None
        self._connected.set()
        # With the last error in its key, this line is repeated as often as the line that names the error.
        key = ("connected", self._last_error)
        self._repeats.info(key, "connected to the broker at %s with MQTT %s", self._place, self.version)

    def _record(self, ending: Ending) -> None:
        """Log the reason, if it is not the one that the last line names."""
        reason = ending.reason
        self._unexplained = self._unexplained + 1 if ending.unexplained and ending.lasted_s < _SHORT_S else 0
        if self._unexplained >= _SUSPICIOUS:
            reason += (
                f" soon after each connect; does another client use the id '{self._options.client_id}' (a clone of "
                "this device), or is a message larger than the broker accepts?"
            )
        self._last_error = reason
        self.taken_over += ending.taken_over
        if reason == self._logged:
            return
        self._logged = reason
        text = "lost the connection to" if ending.end is ConnectionEnd.LOST else "cannot connect to"
        self._repeats.warning((text, reason), f"{text} the broker at %s: %s", self._place, reason)
