"""The proxy does to a connection what its fault says, and counts the messages that cross it."""

import contextlib
import random
import socket
import threading
import time

import pytest

from edgeexit.wire.packet_codec import PacketStream, parse_publish
from scripts.chaoslab.packets import message_key, packet_size, parse_version
from scripts.chaoslab.proxy import LinkFault, Proxy

CONNECT_5 = bytes([0x10, 13, 0, 4]) + b"MQTT" + bytes([5, 2, 0, 30, 0, 0, 0])
TOPIC = b"edgeexit/v1/f/s0/d/up/"


def publish(kind: bytes, payload: bytes, packet_id: int, *, properties: bytes = b"\0") -> bytes:
    topic = TOPIC + kind
    body = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + properties + payload
    assert len(body) < 128
    return bytes([0x32, len(body)]) + body


def puback(packet_id: int) -> bytes:
    return bytes([0x40, 2]) + packet_id.to_bytes(2, "big")


class Server:
    """A TCP server that records what arrives, and answers when it is asked to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.received = bytearray()
        self.connection: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the reset that the proxy makes
            self.connection, _ = self._listener.accept()
            while data := self.connection.recv(65536):
                self.received += data

    def close(self) -> None:
        self._listener.close()
        if self.connection is not None:
            self.connection.close()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.01)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port, random.Random(1))  # noqa: S311 - moments of faults
    yield proxy
    proxy.close()


@pytest.fixture
def client(proxy):
    def connect() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])))
        connection.settimeout(120)
        return connection

    return connect


def packet_of(data: bytes):
    (packet,) = PacketStream(max_bytes=1000).feed(data)
    return packet


@pytest.mark.parametrize("data", [CONNECT_5, puback(9), publish(b"report", b"{}", 9)])
def test_the_size_of_a_packet_is_that_on_the_wire(data):
    assert packet_size(packet_of(data)) == len(data)


def test_a_connect_packet_names_its_version():
    assert parse_version(packet_of(CONNECT_5)) == 5


@pytest.mark.parametrize(
    ("kind", "payload", "key"),
    [
        (b"report", b'{"start":"a","sequence":3}', ("a", 3)),
        (b"audit", b'{"audit":{"start":"b","sequence":4},"key":"k"}', ("b", 4)),
        (b"state", b'{"online":true}', None),
    ],
)
def test_reports_and_audits_have_a_key(kind, payload, key):
    data = publish(kind, payload, 7, properties=b"\x05\x02\0\0\0\x3c")  # with a message expiry interval
    message = parse_publish(packet_of(data), version5=True)
    assert (message.packet_id, message_key(message)) == (7, key)


def test_a_good_link_forwards_both_directions(server, client):
    with client() as connection:
        connection.sendall(b"question")
        wait_for(lambda: server.received == b"question")
        server.connection.sendall(b"answer")
        assert connection.recv(100) == b"answer"


def test_a_connection_is_reset_after_some_bytes(proxy, client):
    proxy.fault = LinkFault(reset_after=(10, 10))
    with client() as connection:
        connection.sendall(b"x" * 100)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert proxy.traffic.resets == 1


def test_a_frozen_connection_forwards_nothing_and_stays_open(proxy, server, client):
    proxy.fault = LinkFault(freeze_after=(10, 10))
    with client() as connection:
        connection.sendall(b"x" * 100)
        wait_for(lambda: proxy.traffic.frozen == 1)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert server.received == b""
        proxy.recover(reset_frozen=True)
        connection.settimeout(120)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


@pytest.mark.parametrize("silently", [True, False])
def test_a_cut_ends_the_traffic_until_it_recovers(proxy, server, client, silently):
    with client() as connection:
        connection.sendall(b"question")
        wait_for(lambda: server.received == b"question")
        proxy.cut(silently=silently)
        wait_for(lambda: proxy.traffic.frozen == 1 if silently else proxy.traffic.resets == 1)
        if silently:
            connection.sendall(b"more")
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        proxy.recover(reset_frozen=True)
        connection.settimeout(120)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert server.received == b"question"


def test_a_slow_link_holds_the_bytes_back(proxy, server, client):
    proxy.fault = LinkFault(bytes_per_s=5000)
    with client() as connection:
        started = time.monotonic()
        connection.sendall(b"x" * 3000)
        wait_for(lambda: len(server.received) == 3000)
        assert time.monotonic() - started > 0.3  # 0.6 s at this rate


def test_a_copy_counts_as_queued_until_the_first_one_is_acknowledged(proxy, server, client):
    message = b'{"start":"a","sequence":3}'
    with client() as connection:
        connection.sendall(CONNECT_5 + publish(b"report", message, 1))
        wait_for(lambda: proxy.traffic.messages == 1)
        wait_for(lambda: server.connection is not None)
        server.connection.sendall(puback(1))
        assert connection.recv(100) == puback(1)
        connection.sendall(publish(b"report", message, 2))
        wait_for(lambda: proxy.traffic.copies == 1)
        assert proxy.traffic.queued_copies == 0
        connection.sendall(publish(b"report", message, 3))
        wait_for(lambda: proxy.traffic.copies == 2)
        assert proxy.traffic.queued_copies == 1
        assert proxy.traffic.ratio > 1
