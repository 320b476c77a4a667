"""When the thread of a session connects, writes and waits."""

import socket
import threading

import pytest

from edgeexit.wire import BrokerConfig, BrokerSession, Delivery, SessionOptions
from edgeexit.wire.packet_codec import PUBLISH, PacketStream, encode_publish
from tests.broker import Mosquitto
from tests.waiting import wait_for
from tests.wire.scripted_broker import CONNACK5, scripted_broker


def test_a_message_that_is_published_in_a_callback_does_not_wait_for_the_next_check_of_the_keepalive(monkeypatch):
    """The acknowledgement of the received message is in the queue of the client when the callback returns."""
    monkeypatch.setattr("edgeexit.wire.packet_loop._TICK_S", 600.0)
    kinds: list[int] = []

    def send_one(connection: socket.socket) -> None:
        connection.recv(256)
        connection.sendall(CONNACK5 + encode_publish("a", b"question", version5=True, packet_id=7))
        stream = PacketStream(max_bytes=1000)
        while data := connection.recv(256):
            kinds.extend(packet.kind for packet in stream.feed(data))

    def respond(_delivery: Delivery) -> None:
        session.publish("b", b"answer")

    with scripted_broker(send_one) as url:
        options = SessionOptions(client_id="test", keepalive_s=600)
        session = BrokerSession(BrokerConfig(url=url), options, on_message=respond)
        session.start()
        wait_for(lambda: PUBLISH in kinds, "the answer")
        session.stop(drain_s=0.1)


def test_there_is_no_attempt_to_connect_while_the_session_may_not():
    connections: list[bytes] = []
    asked = threading.Semaphore(0)
    allowed = threading.Event()

    def may_connect() -> bool:
        asked.release()
        if len(connections) == 1 and not allowed.is_set():
            raise RuntimeError("a bug in the caller")
        return allowed.is_set()

    def accept(connection: socket.socket) -> None:
        connections.append(connection.recv(256))
        connection.sendall(CONNACK5)
        if len(connections) > 1:
            connection.recv(256)
        else:
            allowed.clear()

    with scripted_broker(accept) as url:
        options = SessionOptions(client_id="test")
        session = BrokerSession(BrokerConfig(url=url), options, on_message=lambda _: None, may_connect=may_connect)
        session.start()
        for _ in range(2):
            assert asked.acquire(timeout=10)
        assert not connections
        allowed.set()
        wait_for(lambda: len(connections) == 1 and not allowed.is_set(), "the first connection")
        while asked.acquire(blocking=False):
            pass
        for _ in range(2):
            assert asked.acquire(timeout=10)
        assert len(connections) == 1
        allowed.set()
        wait_for(lambda: len(connections) == 2, "the second connection")
        session.stop(drain_s=0.1)


@pytest.mark.parametrize("delay_s", [0, 3600])
def test_with_a_delay_the_broker_does_not_publish_the_will_of_a_client_that_connects_again(delay_s, tmp_path):
    broker = Mosquitto(tmp_path)
    broker.start()
    received: list[Delivery] = []
    watcher = BrokerSession(
        BrokerConfig(url=broker.url),
        SessionOptions(client_id="watcher", subscriptions=("a/state",)),
        on_message=received.append,
    )
    watcher.start()
    options = SessionOptions(client_id="test", will=("a/state", b"lost"), will_delay_s=delay_s)
    session = BrokerSession(BrokerConfig(url=broker.url), options, on_message=lambda _: None)
    session.start()
    assert watcher.wait_connected(10)
    assert session.wait_connected(10)
    session._connection._client.socket().shutdown(socket.SHUT_RDWR)
    wait_for(lambda: session.last_error != "not connected yet" and session.connected, "the next connection")
    assert session.publish("a/state", b"here") is not None
    wait_for(lambda: received and received[-1].payload == b"here", "the message after it")
    session.stop(drain_s=0.1)
    watcher.stop(drain_s=0.1)
    broker.stop()
    assert [one.payload for one in received] == ([b"here"] if delay_s else [b"lost", b"here"])
