"""A TCP proxy before a broker or a database that delays, throttles, resets or silently drops connections."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from edgeexit.wire.packet_codec import PUBACK, PUBLISH, PacketStream, parse_publish
from scripts.chaoslab.packets import CONNECT, message_key, packet_size, parse_version

_MQTT_5: Final = 5
_CHUNK: Final = 1024
_MAX_PACKET: Final = 1 << 20
_BUFFER: Final = 4096
"""Of the sockets of the proxy, so that a slow link shows to the client as one."""


class LinkFault(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection suffers from."""

    delay_s: float = 0.0
    """In each direction."""
    bytes_per_s: float | None = None
    """In each direction."""
    reset_after: tuple[int, int] | None = None
    """The connection is reset after a random number of bytes in this range, in both directions together."""
    freeze_after: tuple[int, int] | None = None
    """After a random number of bytes in this range, nothing is forwarded any more, and nothing is closed."""


class Traffic(msgspec.Struct):
    """What has crossed the proxy from clients to the broker."""

    connections: int = 0
    resets: int = 0
    frozen: int = 0
    wire_bytes: int = 0
    """Of all complete packets."""
    message_bytes: int = 0
    """Of the first copy of each packet that carries a report or an audit, and of all other packets."""
    messages: int = 0
    """Distinct reports and audits."""
    copies: int = 0
    """Further copies of them, on any connection."""
    queued_copies: int = 0
    """Copies that were sent while the PUBACK of an earlier copy on the same connection had not arrived."""

    @property
    def ratio(self) -> float:
        """Bytes on the wire per byte of the messages."""
        return self.wire_bytes / max(self.message_bytes, 1)


class Proxy:
    """Forwards connections to a port of this machine. `fault` may be changed while it runs.

    Args:
        target: port of the server.
        generator: draws the moments of faults.
        is_mqtt: whether the packets of MQTT are counted.

    """

    def __init__(self, target: int, generator: random.Random, *, is_mqtt: bool = True) -> None:
        self.fault = LinkFault()
        self.traffic = Traffic()
        self._target = target
        self.is_mqtt = is_mqtt
        self._random = generator
        self._seen: set[tuple[str, int]] = set()
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self, *, silently: bool) -> None:
        """Cut the connections, and those that are opened until `recover`.

        Silently: they stay open, and nothing is forwarded. Otherwise they are reset.
        """
        self.fault = LinkFault(freeze_after=(0, 0)) if silently else LinkFault(reset_after=(0, 0))
        self._loop.call_soon_threadsafe(self._cut, silently)

    def recover(self, *, reset_frozen: bool) -> None:
        """End the fault. Frozen connections are reset, as a router does that has forgotten them, or stay frozen."""
        self.fault = LinkFault()
        if reset_frozen:
            self._loop.call_soon_threadsafe(self._reset_frozen)

    def close(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._listener.close()

    def _cut(self, silently: bool) -> None:  # noqa: FBT001 - call_soon has no keywords
        for connection in self._connections:
            connection.cut(silently=silently)

    def _reset_frozen(self) -> None:
        for connection in self._connections:
            connection.reset_if_frozen()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener, limit=2 * _CHUNK))
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=2 * _CHUNK)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(self, self._random)
        self._connections.add(connection)
        pumps = [
            asyncio.ensure_future(connection.pump(reader, up_writer, connection.count_up)),
            asyncio.ensure_future(connection.pump(up_reader, writer, connection.count_down)),
            asyncio.ensure_future(connection.ended.wait()),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self._connections.discard(connection)
        for one in (writer, up_writer):
            if connection.reset:
                _reset(one)
            one.close()


class _Connection:
    """The state of one connection that crosses the proxy."""

    def __init__(self, proxy: Proxy, generator: random.Random) -> None:
        self.reset = False
        self.ended = asyncio.Event()
        self._proxy = proxy
        fault = proxy.fault
        self._reset_after = None if fault.reset_after is None else generator.randint(*fault.reset_after)
        self._freeze_after = None if fault.freeze_after is None else generator.randint(*fault.freeze_after)
        self._forwarded = 0
        self._frozen = False
        self._version = 5
        self._up, self._down = PacketStream(max_bytes=_MAX_PACKET), PacketStream(max_bytes=_MAX_PACKET)
        self._unfinished: dict[int, tuple[str, int]] = {}
        proxy.traffic.connections += 1

    def cut(self, *, silently: bool) -> None:
        """Forward nothing more; reset the connection unless it is to stay open."""
        self._frozen = True
        self._proxy.traffic.frozen += silently
        if not silently:
            self._proxy.traffic.resets += 1
            self.reset_if_frozen()

    def reset_if_frozen(self) -> None:
        """Reset the connection if it is frozen."""
        if self._frozen:
            self.reset = True
            self.ended.set()

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[bytes], None]
    ) -> None:
        """Forward bytes of one direction until the end of the connection."""
        pending: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        sender = asyncio.ensure_future(self._send(pending, writer))
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(_CHUNK):
                count(data)
                self._forwarded += len(data)
                if self._freeze_after is not None and self._forwarded > self._freeze_after and not self._frozen:
                    self._frozen = True
                    self._proxy.traffic.frozen += 1
                if self._reset_after is not None and self._forwarded > self._reset_after:
                    self.reset = True
                    self._proxy.traffic.resets += 1
                    return
                if not self._frozen:
                    if rate := self._proxy.fault.bytes_per_s:
                        await asyncio.sleep(len(data) / rate)
                    await pending.put((loop.time() + self._proxy.fault.delay_s, data))
        except OSError:
            pass
        finally:
            sender.cancel()

    async def _send(self, pending: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                due, data = await pending.get()
                await asyncio.sleep(max(due - loop.time(), 0))
                writer.write(data)
                await writer.drain()

    def count_up(self, data: bytes) -> None:
        """Count the packets of the client."""
        if not self._proxy.is_mqtt:
            return
        traffic = self._proxy.traffic
        for packet in self._up.feed(data):
            size = packet_size(packet)
            traffic.wire_bytes += size
            if packet.kind == CONNECT:
                self._version = parse_version(packet)
            key = None
            if packet.kind == PUBLISH:
                message = parse_publish(packet, version5=self._version == _MQTT_5)
                key = message_key(message) if message.qos else None
                if key is not None:
                    traffic.queued_copies += key in self._unfinished.values()
                    self._unfinished[message.packet_id] = key
            if key is None:
                traffic.message_bytes += size
            elif key in self._proxy._seen:  # noqa: SLF001 - one connection of this proxy
                traffic.copies += 1
            else:
                self._proxy._seen.add(key)  # noqa: SLF001 - as above
                traffic.messages += 1
                traffic.message_bytes += size

    def count_down(self, data: bytes) -> None:
        """Read which messages the broker has acknowledged."""
        if not self._proxy.is_mqtt:
            return
        for packet in self._down.feed(data):
            if packet.kind == PUBACK:
                self._unfinished.pop(int.from_bytes(packet.body[:2], "big"), None)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Let the kernel send RST instead of FIN when the connection is closed."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
