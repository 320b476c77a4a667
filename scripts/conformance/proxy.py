"""A TCP proxy between the client under test and the broker: it reads the CONNECT packets, and can cut connections."""

import contextlib
import socket
import struct
import threading
from typing import Final, NamedTuple

_CONNECT: Final = 0x10
_MQTT5: Final = 5
_REFUSE_5: Final = bytes([0x20, 0x03, 0x00, 0x84, 0x00])
"""A CONNACK of MQTT 5 with the reason `Unsupported Protocol Version`."""
_CHUNK: Final = 65536
_CLEAN, _WILL, _WILL_QOS, _WILL_RETAIN = 0x02, 0x04, 0x18, 0x20


class Connect(NamedTuple):
    """The CONNECT packet of a connection."""

    version: int
    """Protocol level: 4 for MQTT 3.1.1, 5 for MQTT 5."""
    client_id: str
    clean: bool
    will_topic: str | None
    will_payload: bytes
    will_qos: int
    will_retained: bool


class Proxy:
    """Forwards connections from a free port on this machine to the broker, until `stop`."""

    def __init__(self, broker: tuple[str, int], *, port: int = 0) -> None:
        self._broker = broker
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: Final[int] = self._listener.getsockname()[1]
        self.connects: Final[list[Connect]] = []
        """Every CONNECT so far, also the refused ones."""
        self.open = True
        """False: new connections are closed at once."""
        self.refuse_mqtt5 = False
        """True: the proxy refuses MQTT 5 in the name of the broker."""
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> None:
        """Reset every connection, on both sides, as if the network had failed."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)
                end.close()

    def stop(self) -> None:
        """Close everything."""
        self.open = False
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.open:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            else:
                client.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            packet = _read_packet(client)
            connect = parse_connect(packet)
            self.connects.append(connect)
            if self.refuse_mqtt5 and connect.version == _MQTT5:
                client.sendall(_REFUSE_5)
                client.close()
                return
            broker = socket.create_connection(self._broker)
            broker.sendall(packet)
        except (OSError, ValueError):
            client.close()
            return
        pair = (client, broker)
        with self._lock:
            self._pairs.append(pair)
        for source, target in (pair, pair[::-1]):
            threading.Thread(target=self._pump, args=(source, target, pair), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(_CHUNK):
                target.sendall(content)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        with self._lock, contextlib.suppress(ValueError):
            self._pairs.remove(pair)


def _read_packet(connection: socket.socket) -> bytes:
    """Return the first packet of a connection."""
    header = _read(connection, 1)
    length, shift = 0, 0
    while True:
        header += _read(connection, 1)
        length |= (header[-1] & 0x7F) << shift
        shift += 7
        if not header[-1] & 0x80:
            return header + _read(connection, length)


def _read(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = connection.recv(size - len(content))
        if not part:
            raise ValueError("the connection was closed")
        content += part
    return content


def parse_connect(packet: bytes) -> Connect:
    """Return the fields of a CONNECT packet. Raises ValueError if it is not one."""
    if packet[0] != _CONNECT:
        raise ValueError("the first packet is not a CONNECT")
    reader = _Reader(packet)
    reader.skip(1)
    reader.varint()
    reader.binary()
    version, flags = reader.byte(), reader.byte()
    reader.skip(2)
    if version == _MQTT5:
        reader.skip(reader.varint())
    client_id = reader.binary().decode()
    topic, payload = None, b""
    if flags & _WILL:
        if version == _MQTT5:
            reader.skip(reader.varint())
        topic, payload = reader.binary().decode(), reader.binary()
    return Connect(
        version, client_id, bool(flags & _CLEAN), topic, payload, (flags & _WILL_QOS) >> 3, bool(flags & _WILL_RETAIN)
    )


class _Reader:
    """Reads the fields of a packet one after another."""

    def __init__(self, packet: bytes) -> None:
        self._packet = packet
        self._at = 0

    def skip(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._packet):
            raise ValueError("the packet is too short")
        return self._packet[self._at - size : self._at]

    def byte(self) -> int:
        return self.skip(1)[0]

    def binary(self) -> bytes:
        return self.skip(int.from_bytes(self.skip(2), "big"))

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value
