"""A server that answers each connection as a test says, for what no real broker does on demand."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CONNACK5 = bytes([0x20, 3, 0, 0, 0])
"""MQTT 5, accepted, no properties."""
CONNACK3 = bytes([0x20, 2, 0, 0])
"""MQTT 3.1.1, accepted."""


@contextmanager
def scripted_broker(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """Yield the URL of a server that calls `handle` for each connection, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    handle(connection)
                except OSError:
                    return

        def accept() -> None:
            while server.fileno() >= 0:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed, or no descriptor is free
                    time.sleep(0.01)
                    continue
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"


def version_of(connect_packet: bytes) -> int:
    """Return the protocol level of a CONNECT packet of less than 128 bytes: 5 for MQTT 5, 4 for 3.1.1."""
    return connect_packet[8]
