"""The session with a broker that sends damaged packets: its thread goes on, and connects to one that behaves."""

import random
import socket

from edgeexit.wire import BrokerConfig, BrokerSession, SessionOptions
from tests.waiting import wait_for
from tests.wire.scripted_broker import CONNACK3, CONNACK5, scripted_broker

CONNACKS = [
    CONNACK5,
    CONNACK3,
    bytes([0x20, 9, 0, 0x87, 6, 0x1F, 0, 3]) + b"why",
    bytes([0x20, 13, 0, 0, 10, 0x21, 0, 5, 0x27, 0, 0, 16, 0, 0x24, 1]),
]
PACKETS = [
    bytes([0x30, 5, 0, 1]) + b"a\0x",
    bytes([0x32, 8, 0, 1]) + b"a\0\1\0xy",
    bytes([0x40, 4, 0, 1, 0x87, 0]),
    bytes([0x50, 2, 0, 1]),
    bytes([0x62, 2, 0, 1]),
    bytes([0x70, 2, 0, 1]),
    bytes([0x90, 4, 0, 1, 0, 1]),
    bytes([0xB0, 4, 0, 1, 0, 0]),
    bytes([0xD0, 0]),
    bytes([0xE0, 2, 0x8E, 0]),
]
"""Of every type that a broker sends."""


def damaged(packet: bytes, rng: random.Random) -> bytes:
    """Return the packet with a byte changed, some inserted, or its end cut off."""
    data = bytearray(packet)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        kind = rng.random()
        if kind < 0.4 and place < len(data):
            data[place] = rng.randrange(256)
        elif kind < 0.7:
            data[place:place] = rng.randbytes(rng.randint(1, 9))
        else:
            del data[place:]
    return bytes(data)


def test_damaged_packets_end_connections_and_never_the_thread(monkeypatch):
    monkeypatch.setattr("edgeexit.wire.reconnecting._FIRST_DELAY_S", 0.0)
    monkeypatch.setattr("edgeexit.wire.reconnecting._MAX_DELAY_S", 0.0)
    rng = random.Random(14)  # noqa: S311
    connections = []

    def misbehave(connection: socket.socket) -> None:
        connect = connection.recv(200)
        connections.append(connect)
        if len(connections) > 300:
            if connect:  # otherwise the client has closed the connection already
                connection.sendall(CONNACK5 if connect[8] == 5 else CONNACK3)
            connection.recv(200)
            return
        connack = rng.choice(CONNACKS)
        answer = damaged(connack, rng) if rng.random() < 0.3 else connack
        for _ in range(rng.randint(0, 6)):
            packet = rng.choice(PACKETS)
            answer += damaged(packet, rng) if rng.random() < 0.6 else packet
        connection.sendall(answer)
        connection.settimeout(0.01)
        connection.recv(200)

    def publish() -> None:
        for _ in range(5):
            session.publish("a", b"x")

    with scripted_broker(misbehave) as url:
        session = BrokerSession(
            BrokerConfig(url=url),
            SessionOptions(client_id="test", subscriptions=("a",)),
            on_message=lambda delivery: delivery.ack(),
            on_connect=publish,
        )
        session.start()
        wait_for(lambda: len(connections) > 300 and session.connected, "a connection that lasts", timeout_s=30)
        session.stop()
