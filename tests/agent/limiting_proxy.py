"""A TCP proxy between an agent and its broker: slow, or closing when a packet is larger than a limit."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_PUBLISH = 3


class LimitingProxy:
    """Forwards connections to the broker at `port`.

    Args:
        port: the broker's port.
        max_packet: a larger PUBLISH from the client ends its connection, as on a broker that does not announce a limit.
        bytes_per_s: rate from the client to the broker.

    Attributes:
        url: where the client connects to.
        connections: number of connections so far.
        forwarded: bytes forwarded from clients to the broker.

    """

    def __init__(self, port: int, *, max_packet: int | None = None, bytes_per_s: float | None = None) -> None:
        self._port = port
        self._max_packet = max_packet
        self._bytes_per_s = bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.forwarded = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if self._bytes_per_s is not None:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open |= {client, server}
                threading.Thread(target=self._upwards, args=(client, server), daemon=True).start()
                threading.Thread(target=self._downwards, args=(server, client), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client, server:
            for packet in _packets(client):
                if self._max_packet is not None and packet[0] >> 4 == _PUBLISH and len(packet) > self._max_packet:
                    break
                for start in range(0, len(packet), 1024):
                    chunk = packet[start : start + 1024]
                    server.sendall(chunk)
                    self.forwarded += len(chunk)
                    if self._bytes_per_s is not None:
                        time.sleep(len(chunk) / self._bytes_per_s)
        self._end(client, server)

    def _downwards(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        self._end(client, server)

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            self._open.discard(one)


def _packets(client: socket.socket) -> Iterator[bytes]:
    """Yield the packets of MQTT that a client sends."""
    with client.makefile("rb") as stream:
        while head := stream.read(1):
            length, shift = 0, 0
            while True:
                byte = stream.read(1)
                head += byte
                length |= (byte[0] & 127) << shift
                shift += 7
                if byte[0] < 128:
                    break
            yield head + stream.read(length)
