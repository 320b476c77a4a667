"""Moves the packets of paho's client: an event loop on epoll, because paho's own fails for descriptors above 1023."""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from paho.mqtt.enums import MQTTErrorCode

from edgeexit.wire.failure_reason import foreign_protocol
from edgeexit.wire.link_activity import LinkActivity
from edgeexit.wire.mqtt_client import MqttClient
from edgeexit.wire.wakeup import Wakeup

_TICK_S: Final = 5.0
"""Maximum seconds between two checks of the keepalive; a quarter of a shorter keepalive."""
_PAUSED_S: Final = 0.25
"""The same while nothing is to be read: then the pause may end without a wakeup."""
_ACTIVITY_S: Final = 1.0
_FIRST_BYTES: Final = 8


class PacketLoop:
    """Reads, writes and keeps the connection alive; `problem` says what ended it, if that was not MQTT.

    Args:
        client: a client that has connected.
        wakeup: ends a wait of `step`.
        is_paused: returns True while nothing is to be read. PINGREQs are sent even then.

    """

    def __init__(self, client: MqttClient, wakeup: Wakeup, *, is_paused: Callable[[], bool] = lambda: False) -> None:
        self.problem: str | None = None
        self._client = client
        self._wakeup = wakeup
        self._is_paused = is_paused
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeup, selectors.EVENT_READ)
        connection = client.socket()
        self._descriptor = -1 if connection is None else connection.fileno()
        self._events = selectors.EVENT_READ
        if connection is not None:
            self._selector.register(self._descriptor, self._events)
        self._activity = LinkActivity(self._descriptor)
        self._activity_due = 0.0
        # The first packet waits until the socket is writable, so that an alert of TLS is read before a write fails.
        self._is_blocked = True
        self._has_read = False
        self._result = MQTTErrorCode.MQTT_ERR_SUCCESS

    @property
    def result(self) -> MQTTErrorCode:
        """How paho ended the connection; success while it is open, and after a DISCONNECT."""
        return self._result

    @property
    def is_open(self) -> bool:
        """True until the connection has ended."""
        is_fine = self._result == MQTTErrorCode.MQTT_ERR_SUCCESS and self.problem is None
        return is_fine and self._client.socket() is not None

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""
        if self._client.want_write() and not self._is_blocked:
            self._write()

    def step(self, wait_s: float) -> None:
        """Write what is queued, wait up to `wait_s` for the socket or the wakeup, and process what arrived."""
        self.flush()
        if not self.is_open:
            return
        paused = self._is_paused()
        has_pending = not paused and self._client.has_pending
        self._register((0 if paused else selectors.EVENT_READ) | (selectors.EVENT_WRITE if self._is_blocked else 0))
        events = 0
        for key, ready in self._selector.select(
            0 if has_pending else self._limit(wait_s, _PAUSED_S if paused else _TICK_S)
        ):
            if key.fd == self._descriptor:
                events = ready
            else:
                self._wakeup.clear()
        if events & selectors.EVENT_READ or has_pending:
            self._read()
        if events & selectors.EVENT_WRITE and self.is_open:
            self._write()
        if self.is_open:
            self._keep_alive(may_ping_wait=paused)

    def _limit(self, wait_s: float, most_s: float) -> float:
        keepalive_s = self._client.keepalive
        return max(0.0, min(wait_s, most_s, keepalive_s / 4 if keepalive_s else most_s))

    def _register(self, events: int) -> None:
        if events == self._events:
            return
        if not events:
            self._selector.unregister(self._descriptor)
        elif not self._events:
            self._selector.register(self._descriptor, events)
        else:
            self._selector.modify(self._descriptor, events)
        self._events = events

    def _write(self) -> None:
        self._result = self._client.loop_write()
        self._is_blocked = self._client.want_write()

    def _read(self) -> None:
        if not self._has_read:
            self._has_read = True
            connection = self._client.socket()
            if type(connection) is socket.socket:
                with contextlib.suppress(OSError):
                    self.problem = foreign_protocol(connection.recv(_FIRST_BYTES, socket.MSG_PEEK))
            if self.problem is not None:
                return
        self._client.restart_ping_timeout()
        for _ in range(self._client.reads_per_step):
            before = self._client.packets
            self._result = self._client.loop_read()
            if self._client.packets == before or not self.is_open:
                break
        self.problem = self._client.abuse

    def _keep_alive(self, *, may_ping_wait: bool) -> None:
        """Send a PINGREQ if one is due; `may_ping_wait`: its response may have arrived and not be read."""
        now = time.monotonic()
        if may_ping_wait:
            self._client.restart_ping_timeout()
        if now >= self._activity_due:
            self._activity_due = now + _ACTIVITY_S
            if self._activity.is_sending():
                self._client.restart_ping_timeout()
        self._result = self._client.loop_misc()

    def __enter__(self) -> "PacketLoop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._selector.close()
