"""Publishes reports with QoS 1 as fast as asked for, until it is ended: the load of scripts/bench/mqtt_clients.py.

python scripts/bench/mqtt_load.py PORT RATE
"""

import select
import socket
import sys
import time
from typing import Final

import msgspec

from edgeexit.wire.packet_codec import encode_connect, encode_publish

CONNECTIONS: Final = 4
DEVICES: Final = 500
CHUNK: Final = 50
CHUNKS: Final = 20
"""Per connection, `CHUNKS` chunks of `CHUNK` packets are in flight at most."""
PAYLOAD_BYTES: Final = 700
_PUBACK_BYTES: Final = 4


def report() -> bytes:
    """Return a payload of the size and the kind of a report with four exits."""
    counts = {f"exit_{number}": {"scores": [number] * 62, "latencies": [number] * 16} for number in range(4)}
    payload = msgspec.json.encode({"start": "0123456789abcdef", "sequence": 123456, "exits": counts})
    return payload[:PAYLOAD_BYTES].ljust(PAYLOAD_BYTES)


class Publisher:
    """A connection that publishes prepared chunks of packets; a chunk is sent again when it is acknowledged."""

    def __init__(self, port: int, number: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(encode_connect(f"load-{number}", version5=False, keepalive_s=600))
        self._socket.recv(4)
        payload, first = report(), number * DEVICES // CONNECTIONS
        self._chunks = [
            b"".join(
                encode_publish(
                    f"edgeexit/v1/bench/shard/device-{first + packet_id % (DEVICES // CONNECTIONS)}/up/report",
                    payload,
                    version5=False,
                    packet_id=packet_id,
                )
                for packet_id in range(chunk * CHUNK + 1, (chunk + 1) * CHUNK + 1)
            )
            for chunk in range(CHUNKS)
        ]
        self._sent = 0
        self._acked_bytes = 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def send_chunk(self) -> int:
        """Send the next chunk if there is room; return the number of its messages."""
        if self._sent - self._acked_bytes // (_PUBACK_BYTES * CHUNK) >= CHUNKS:
            return 0
        self._socket.sendall(self._chunks[self._sent % CHUNKS])
        self._sent += 1
        return CHUNK

    def receive(self) -> None:
        """Read acknowledgements."""
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the broker closed the connection of the load")
        self._acked_bytes += len(data)


def main() -> None:
    """Publish until the process is ended."""
    port, rate = int(sys.argv[1]), float(sys.argv[2])
    publishers = [Publisher(port, number) for number in range(CONNECTIONS)]
    started, sent, turn = time.monotonic(), 0, 0
    while True:
        due = int((time.monotonic() - started) * rate) - sent
        idle = 0
        while due > 0 and idle < len(publishers):
            count = publishers[turn % len(publishers)].send_chunk()
            turn += 1
            idle = 0 if count else idle + 1
            sent += count
            due -= count
        if due > rate / 10:  # the broker does not take as many: do not make up for it
            sent += due
        for one in select.select(publishers, [], [], 0.002)[0]:
            one.receive()


if __name__ == "__main__":
    main()
