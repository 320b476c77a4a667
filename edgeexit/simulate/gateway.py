"""One MQTT connection that carries the messages of many simulated devices, as a gateway does."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from edgeexit.errors import ConfigError
from edgeexit.simulate.packets import MqttVersion, encode_connect, encode_subscriptions, parse_connack
from edgeexit.wire import MAX_BYTES, BrokerConfig
from edgeexit.wire.broker_config import first_line
from edgeexit.wire.failure_reason import failure_reason
from edgeexit.wire.packet_codec import (
    CONNACK,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    SUBACK,
    Packet,
    PacketError,
    PacketStream,
    encode_pubacks,
    encode_publish,
    parse_acknowledgement,
    parse_publish,
)
from edgeexit.wire.tls_context import tls_context

_KEEP_ALIVE_S: Final = 60
_PING_S: Final = 25.0
_CONNECT_S: Final = 30.0
_MAX_WINDOW: Final = 2_000
"""Messages without a PUBACK on one connection, whatever the broker allows."""
_FILTERS_PER_PACKET: Final = 200
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 10.0
_BROKER_DISCONNECTS: Final = 14
_FAILURE: Final = 0x80
_MAX_PACKET: Final = 2 * MAX_BYTES


class BrokerAccess(NamedTuple):
    """How the connections of a run reach the broker."""

    config: BrokerConfig
    version: MqttVersion = "5"


class Gateway(asyncio.Protocol):
    """A connection that is opened again whenever it ends. All methods are called in the event loop.

    Args:
        access: the broker.
        client_id: its client id.
        filters: what it subscribes to.
        will: returns topic and payload of its will.
        on_open: called after the broker has accepted the connection; publishes the states.
        on_ready: called after all that `on_open` published has a PUBACK.
        on_message: receives topic and payload.
        is_private: True if it carries one device.

    """

    def __init__(
        self,
        access: BrokerAccess,
        client_id: str,
        *,
        filters: list[str],
        will: Callable[[], tuple[str, bytes] | None],
        on_open: Callable[[], None],
        on_ready: Callable[[], None],
        on_message: Callable[[str, bytes], None],
        is_private: bool = False,
    ) -> None:
        self.is_private = is_private
        self._access = access
        self._version5 = access.version == "5"
        self._client_id = client_id
        self._filters = filters
        self._will = will
        self._on_open = on_open
        self._on_ready = on_ready
        self._on_message = on_message
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()
        self._accepted = asyncio.Event()
        self._closing = False
        self._refusal: str | None = None
        self._ping_due = 0.0
        self._reset()
        self.is_ready = False
        """True while messages may be sent: the broker has the states."""
        self.connects = 0
        """Number of connections that the broker accepted."""
        self.failure: str | None = None
        """Why the last attempt to connect failed; None if it did not."""

    @property
    def idle(self) -> bool:
        """True if nothing waits to be sent, or for a PUBACK."""
        return not self._queue and not self._waiting

    async def run(self, permit: asyncio.Semaphore) -> None:
        """Connect, and connect again whenever the connection ends, until `close`; `permit` limits attempts at once."""
        wait_s = _FIRST_WAIT_S
        while not self._closing:
            async with permit:
                self.failure = await self._connect()
            if self.failure is None:
                wait_s = _FIRST_WAIT_S
                await self._ended.wait()
            if not self._closing:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def publish(
        self, topic: str, payload: bytes, *, done: Callable[[bool], None] | None = None, retain: bool = False
    ) -> None:
        """Send a message with QoS 1; `done` is called with True after its PUBACK, and with False if it is an error.

        Nothing is called if the connection ends before. Nothing is sent without a connection.
        """
        if not self._accepted.is_set():
            return
        if self._free and not self._paused:
            self._write(topic, payload, done, retain)
        else:
            self._queue.append((topic, payload, done, retain))

    def abort(self) -> None:
        """End the connection without a DISCONNECT, so that the broker publishes the will."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Disconnect and do not connect again."""
        self._closing = True
        self._ended.set()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join((*self._out, DISCONNECT)))
            self._out.clear()
            self._transport.close()

    def ping(self, now: float) -> None:
        """Send a PINGREQ if one is due."""
        if self._accepted.is_set() and now >= self._ping_due:
            self._ping_due = now + _PING_S
            self._put(PINGREQ)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT."""
        self._transport = transport  # type: ignore[assignment]  # TCP and TLS transports are `asyncio.Transport`
        config = self._access.config
        password = None
        if config.password_file is not None:
            password = first_line("password_file", config.password_file)
        self._put(
            encode_connect(
                self._client_id,
                version5=self._version5,
                keep_alive_s=_KEEP_ALIVE_S,
                username=config.username,
                password=password,
                will=self._will(),
            )
        )

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reconnect does not depend on it
        """Forget what was on the wire; the agents send it again after the reconnect."""
        self._transport = None
        self._reset()
        self.is_ready = False
        self._accepted.clear()
        self._ended.set()

    def pause_writing(self) -> None:
        """Queue messages until the socket takes more."""
        self._paused = True

    def resume_writing(self) -> None:
        """Send what was queued."""
        self._paused = False
        self._send_queued()

    def data_received(self, data: bytes) -> None:
        """Handle packets."""
        try:
            for packet in self._reader.feed(data):
                self._handle(packet)
        except PacketError as error:
            self._refusal = str(error)
            self.abort()
            return
        self._send_queued()
        if not self.is_ready and self._accepted.is_set() and not self._subscribing and self.idle:
            self.is_ready = True
            self._on_ready()

    def _reset(self) -> None:
        self._reader = PacketStream(max_bytes=_MAX_PACKET)
        self._queue: deque[tuple[str, bytes, Callable[[bool], None] | None, bool]] = deque()
        self._waiting: dict[int, Callable[[bool], None] | None] = {}
        self._free: deque[int] = deque()
        self._out: list[bytes] = []
        self._flushing = False
        self._paused = False
        self._subscribing = 0
        self._ping_due = time.monotonic() + _PING_S

    async def _connect(self) -> str | None:
        """Return None after a CONNACK, else why there is no connection."""
        endpoint = self._access.config.endpoint()
        self._ended.clear()
        self._refusal = None
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if endpoint.tls:
            options = {"ssl": tls_context(self._access.config), "server_hostname": endpoint.host}
        try:
            connecting = loop.create_connection(lambda: self, endpoint.host, endpoint.port, **options)
            await asyncio.wait_for(connecting, _CONNECT_S)
        except asyncio.TimeoutError:
            return f"timeout: no connection within {_CONNECT_S:g} s"
        except OSError as error:
            return failure_reason(error, endpoint, tcp_connected=False)
        answers = [asyncio.ensure_future(event.wait()) for event in (self._accepted, self._ended)]
        done, _ = await asyncio.wait(answers, timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
        for answer in answers:
            answer.cancel()
        if not done:
            self.abort()
            return f"no answer to CONNECT within {_CONNECT_S:g} s"
        if self._accepted.is_set() or self._closing:
            return None
        return self._refusal or "the broker closed the connection"

    def _handle(self, packet: Packet) -> None:
        kind = packet.first >> 4
        if kind == PUBACK:
            packet_id, code = parse_acknowledgement(packet)
            done = self._waiting.pop(packet_id, None)
            self._free.append(packet_id)
            if done is not None:
                done(code < _FAILURE)
        elif kind == PUBLISH:
            message = parse_publish(packet, version5=self._version5)
            if message.packet_id:
                self._put(encode_pubacks([message.packet_id]))
            self._on_message(message.topic.decode(errors="replace"), message.payload)
        elif kind == CONNACK:
            self._handle_connack(packet)
        elif kind == SUBACK:
            self._subscribing -= 1
        elif kind == _BROKER_DISCONNECTS:
            self.abort()

    def _handle_connack(self, packet: Packet) -> None:
        connack = parse_connack(packet, version5=self._version5)
        if connack.code:
            self._refusal = f"the broker refuses the connection: code {connack.code}"
            self.abort()
            return
        self._free.extend(range(1, min(connack.window, _MAX_WINDOW) + 1))
        self._accepted.set()
        self.connects += 1
        first_id = _MAX_WINDOW + 1
        for place in range(0, len(self._filters), _FILTERS_PER_PACKET):
            part = self._filters[place : place + _FILTERS_PER_PACKET]
            packet_id = first_id + self._subscribing
            self._put(encode_subscriptions(part, version5=self._version5, packet_id=packet_id))
            self._subscribing += 1
        self._on_open()

    def _send_queued(self) -> None:
        while self._queue and self._free and not self._paused:
            self._write(*self._queue.popleft())

    def _write(self, topic: str, payload: bytes, done: Callable[[bool], None] | None, retain: bool) -> None:  # noqa: FBT001 - private
        packet_id = self._free.popleft()
        self._waiting[packet_id] = done
        self._put(encode_publish(topic, payload, version5=self._version5, packet_id=packet_id, retain=retain))

    def _put(self, packet: bytes) -> None:
        """Send a packet, together with all others of this iteration of the event loop."""
        self._out.append(packet)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()


def require_supported(access: BrokerAccess) -> None:
    """Raise ConfigError for a broker that simulated devices cannot connect to."""
    endpoint = access.config.endpoint()
    if endpoint.path is not None or access.config.proxy is not None:
        raise ConfigError(
            f"simulated devices connect by mqtt:// or mqtts:// without a proxy, not '{access.config.url}'"
        )
    with contextlib.suppress(OSError):
        if endpoint.tls:
            tls_context(access.config)
