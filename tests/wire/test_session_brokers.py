"""The session at real brokers: rumqttd, mosquitto and amqtt, over TCP and WebSockets."""

import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeexit.wire import BrokerConfig, BrokerSession, Delivery, PacketTooLargeError, SessionOptions, broker_connection
from tests.broker import Amqtt, Mosquitto, RealBroker
from tests.waiting import wait_for

Start = Callable[..., BrokerSession]


def websocket_url(broker: Mosquitto) -> str:
    return f"ws://127.0.0.1:{broker.websocket_port}"


BROKERS: dict[str, Callable[[Path], tuple[Any, Callable[[Any], str]]]] = {
    "iotcore": lambda folder: (RealBroker(folder), lambda one: one.url),
    "mosquitto": lambda folder: (Mosquitto(folder), lambda one: one.url),
    "mosquitto over WebSockets": lambda folder: (Mosquitto(folder, websockets=True), websocket_url),
    "amqtt": lambda _: (Amqtt(), lambda one: one.url),
    "amqtt over WebSockets": lambda _: (Amqtt(websockets=True), lambda one: one.url),
}


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a session and wait until it is connected."""
    sessions = []

    def make(
        url: str, on_message: Callable[[Delivery], None] = lambda _: None, client_id: str = "client", **options: Any
    ) -> BrokerSession:
        session = BrokerSession(
            BrokerConfig(url=url), SessionOptions(client_id=client_id, **options), on_message=on_message
        )
        session.start()
        sessions.append(session)
        assert session.wait_connected(10), session.last_error
        return session

    yield make
    for session in sessions:
        session.stop(drain_s=0.5)


@pytest.mark.parametrize("name", BROKERS)
def test_messages_of_every_size_go_up_and_down(name, tmp_path, start, monkeypatch):
    """amqtt never answers a CONNECT of MQTT 5; the session then connects with 3.1.1."""
    monkeypatch.setattr(broker_connection, "_CONNACK_TIMEOUT_S", 0.5)
    broker, url = BROKERS[name](tmp_path)
    broker.start()
    received: list[Delivery] = []
    session = start(url(broker), received.append, subscriptions=("fleet/+/ack", "fleet/policy"))
    large = 20_000 if name == "mosquitto over WebSockets" else 200_000  # it takes 40 kB/s
    payloads = [b"", b"x" * 100, bytes(range(256)) * 40, b"y" * large]
    publications = [session.publish("fleet/one/ack", payload) for payload in payloads]
    publications.append(session.publish("fleet/policy", b"kept", retain=True))
    wait_for(lambda: len(received) == len(publications), "all messages")
    assert all(one.wait(5) and one.acked and one.written for one in publications)
    assert session.unacked_bytes == 0
    assert [one.payload for one in received] == [*payloads, b"kept"]
    assert session.problem is None
    assert session.version == ("3.1.1" if "amqtt" in name else "5")
    later: list[Delivery] = []
    start(url(broker), later.append, client_id="later", subscriptions=("fleet/policy",))
    wait_for(lambda: later, "the retained message")
    assert (later[0].payload, later[0].retain) == (b"kept", True)
    session.stop()
    broker.stop()


def test_the_brokers_maximum_packet_size_is_known_and_a_larger_message_does_not_end_the_connection(tmp_path, start):
    broker = Mosquitto(tmp_path, max_packet_size=6000)
    broker.start()
    received: list[Delivery] = []
    session = start(broker.url, received.append, subscriptions=("a/#",))
    limit = session.max_payload("a/b")
    assert limit is not None
    assert 5900 < limit < 6000
    with pytest.raises(PacketTooLargeError, match="6001 bytes on 'a/b' is larger than the") as caught:
        session.publish("a/b", b"x" * 6001)
    assert (caught.value.size, caught.value.limit) == (6001, limit)
    publication = session.publish("a/b", b"x" * limit, expiry_s=60)
    assert publication is not None
    wait_for(lambda: received, "the largest message")
    assert len(received[0].payload) == limit
    assert session.connected
    broker.stop()


@pytest.mark.parametrize(
    ("line", "problem"),
    [("retain_available false", "the broker supports no retained messages"), ("max_qos 0", "supports only QoS 0")],
)
def test_a_broker_without_retained_messages_or_qos_1_is_used_and_named_as_a_problem(tmp_path, start, line, problem):
    broker = Mosquitto(tmp_path, lines=[line])
    broker.start()
    received: list[Delivery] = []
    session = start(broker.url, received.append, subscriptions=("a",), will=("a/state", b"offline"))
    publication = session.publish("a", b"hello", retain=True)
    assert publication is not None
    wait_for(lambda: received, "the message")
    assert publication.wait(5)
    assert publication.acked
    assert problem in session.problem
    assert session.connected
    broker.stop()


def test_the_brokers_receive_maximum_is_kept(tmp_path, start):
    """mosquitto ends a connection with more unacknowledged messages than its receive maximum."""
    broker = Mosquitto(tmp_path, lines=["max_inflight_messages 3"])
    broker.start()
    session = start(broker.url)
    assert session._connection.outgoing.limits.receive_maximum == 3
    publications = [session.publish("a/b", b"x" * 1000) for _ in range(500)]
    assert all(one.wait(5) and one.acked for one in publications)
    assert session.last_error == "not connected yet"
    broker.stop()


def test_receive_maximum_bounds_what_arrives_before_it_is_acknowledged(tmp_path, start):
    broker = Mosquitto(tmp_path)
    broker.start()
    received: list[Delivery] = []
    start(broker.url, received.append, client_id="slow", subscriptions=("a",), manual_ack=True, receive_maximum=5)
    sender = start(broker.url, client_id="sender")
    publications = [sender.publish("a", b"%d" % number) for number in range(20)]
    assert all(one.wait(5) for one in publications)
    wait_for(lambda: len(received) == 5, "the first messages")
    sender.publish("b", b"", retain=False).wait(5)
    assert len(received) == 5
    for number in range(20):
        wait_for(lambda number=number: len(received) > number, "the next message")
        received[number].ack()
    assert [one.payload for one in received] == [b"%d" % number for number in range(20)]
    broker.stop()


def test_an_unacknowledged_message_comes_again_and_an_ack_of_the_old_connection_has_no_effect(tmp_path, start):
    broker = Mosquitto(tmp_path)
    broker.start()
    received: list[Delivery] = []
    options = {"client_id": "slow", "subscriptions": ("a",), "manual_ack": True}
    first = start(broker.url, received.append, **options)
    sender = start(broker.url, client_id="sender")
    sender.publish("a", b"one")
    wait_for(lambda: received, "the message")
    first.stop()
    second = start(broker.url, received.append, **options)
    wait_for(lambda: len(received) == 2, "the message again")
    received[0].ack()
    assert (received[1].payload, received[1].dup) == (b"one", True)
    received[1].ack()
    second.stop()
    third: list[Delivery] = []
    start(broker.url, third.append, **options)
    sender.publish("a", b"two")
    wait_for(lambda: third, "the next message")
    assert [one.payload for one in third] == [b"two"]
    broker.stop()


def test_the_client_connects_again_after_the_broker_was_killed_and_its_messages_have_ended(tmp_path, start):
    broker = Mosquitto(tmp_path)
    broker.start()
    session = start(broker.url)
    publication = session.publish("a", b"")
    assert publication.wait(5)
    broker.stop(kill=True)
    wait_for(lambda: not session.connected, "the end of the connection")
    assert session.publish("a", b"") is None
    broker.start()
    wait_for(lambda: session.connected, "the next connection")
    publication = session.publish("a", b"")
    assert publication is not None
    assert publication.wait(5)
    assert publication.acked
    broker.stop()


def test_two_clients_with_one_id_suspect_each_other(tmp_path, start, monkeypatch):
    """mosquitto 2.0 closes the older connection without a reason."""
    monkeypatch.setattr("edgeexit.wire.reconnecting._FIRST_DELAY_S", 0.05)
    monkeypatch.setattr("edgeexit.wire.reconnecting._MAX_DELAY_S", 0.1)
    broker = Mosquitto(tmp_path)
    broker.start()
    first = start(broker.url, client_id="camera-1")
    start(broker.url, client_id="camera-1")
    wait_for(lambda: "does another client use the id 'camera-1'" in first.last_error, "the suspicion", timeout_s=20)
    broker.stop()


@pytest.mark.parametrize("name", ["mosquitto", "mosquitto over WebSockets"])
def test_the_client_connects_with_descriptors_above_1023(name, tmp_path, start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"the hard limit of open files is {hard}")
    broker, url = BROKERS[name](tmp_path)
    broker.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    files = [socket.socket() for _ in range(1100)]
    try:
        received: list[Delivery] = []
        session = start(url(broker), received.append, subscriptions=("a",))
        assert session._connection._client.socket().fileno() > 1023
        session.publish("a", b"hello")
        wait_for(lambda: received, "the message")
        session.stop()
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    broker.stop()
