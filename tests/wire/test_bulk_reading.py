"""What a session that takes batches makes of its stream of packets: links of every kind, limits, and broken brokers."""

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgeexit.wire import BrokerConfig, BrokerSession, Delivery, SessionOptions
from edgeexit.wire.packet_codec import PINGREQ, PacketStream, encode_length, encode_publish
from edgeexit.wire.packet_loop import PacketLoop
from tests.broker import Mosquitto
from tests.certificates import CertificateAuthority
from tests.waiting import wait_for
from tests.wire.batch_receiver import BatchReceiver
from tests.wire.scripted_broker import CONNACK3, CONNACK5, scripted_broker, version_of

Answer = Callable[[socket.socket, str], None]
"""Sends packets on a connection that is accepted and subscribed; the second argument is its version."""
PINGRESP = b"\xd0\x00"


@pytest.fixture
def receive() -> Iterator[Any]:
    """Start receivers, and stop them at the end."""
    receivers = []

    def make(url: str, **options: Any) -> BatchReceiver:
        receivers.append(BatchReceiver(url, **options))
        return receivers[-1]

    yield make
    for one in receivers:
        one.session.stop(drain_s=0.2)


def accept(answer: Answer, *, version: str = "5") -> Callable[[socket.socket], None]:
    """Return a handler of connections that accepts this version of MQTT and answers the subscription."""

    def handle(connection: socket.socket) -> None:
        if version_of(connection.recv(256)) != (5 if version == "5" else 4):
            connection.sendall(bytes([0x20, 2, 0, 1]))
            return
        connection.sendall(CONNACK5 if version == "5" else CONNACK3)
        packet_id = connection.recv(256)[2:4]
        suback = packet_id + (b"\0\1" if version == "5" else b"\1")
        connection.sendall(bytes([0x90, len(suback)]) + suback)
        answer(connection, version)

    return handle


def messages(number: int, version: str) -> list[bytes]:
    """Return messages of 700 bytes with the packet ids 1 to `number`; their last bytes number them from 0."""
    return [
        encode_publish("a/b", index.to_bytes(700, "big"), version5=version == "5", packet_id=index + 1)
        for index in range(number)
    ]


def read_until_closed(connection: socket.socket, received: bytearray) -> None:
    """Append what arrives."""
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            received.extend(data)


@pytest.mark.parametrize("link", ["mqtt", "mqtts", "ws", "wss"])
def test_twenty_thousand_messages_arrive_once_and_in_order_on_every_kind_of_link(link, tmp_path, receive):
    options: dict[str, Any] = {"lines": ["max_queued_messages 0", "max_inflight_messages 0"]}
    authority = CertificateAuthority(tmp_path / "ca")
    if link in ("mqtts", "wss"):
        files = authority.issue("server")
        options["tls"] = {"certfile": files.certificate, "keyfile": files.key}
    broker = Mosquitto(tmp_path / "broker", websockets=link in ("ws", "wss"), **options)
    broker.start()
    port = broker.websocket_port if link in ("ws", "wss") else broker.port
    url, ca_file = f"{link}://localhost:{port}", authority.file if link in ("mqtts", "wss") else None
    receiver = receive(url, ca_file=ca_file)
    assert receiver.session.wait_connected(10), receiver.session.last_error
    sender = receive(url, ca_file=ca_file, client_id="sender", subscriptions=())
    assert sender.session.wait_connected(10), sender.session.last_error
    number = 20_000 if link == "mqtt" else 3_000
    payloads = [b"%d " % index + bytes(index % 1000) for index in range(number)]
    for start in range(0, number, 500):
        batch = [("a/b", payload) for payload in payloads[start : start + 500]]
        assert sender.session.publish_unconfirmed(batch)
    assert sender.session.publish_unconfirmed([("a/last", b"last")])
    wait_for(lambda: receiver.received and receiver.received[-1].topic == "a/last", "the last message", timeout_s=60)
    assert [one.payload for one in receiver.received] == [*payloads, b"last"]
    assert len(receiver.batches) < number
    assert receiver.session.last_error == "not connected yet"
    broker.stop()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("limit", [{"receive_maximum": 100}, {"receive_maximum": None, "max_unacked_bytes": 100_000}])
def test_reading_stops_at_the_limit_pings_go_on_and_acknowledgements_resume_it(version, limit, receive, monkeypatch):
    """A broker that ignores Receive Maximum sends 20 MB; the keepalive of 1 s passes several times meanwhile."""
    steps = []
    step = PacketLoop.step
    monkeypatch.setattr(PacketLoop, "step", lambda loop, wait_s: (steps.append(1), step(loop, wait_s)))
    number = 28_000
    pings: list[float] = []
    acks = bytearray()
    resumed, ended = threading.Event(), threading.Event()

    def read(connection: socket.socket) -> None:
        stream = PacketStream(max_bytes=1000)
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                for packet in stream.feed(data):
                    if packet.first == PINGREQ[0]:
                        pings.append(1)
                        if resumed.is_set():
                            connection.sendall(PINGRESP)
                    else:
                        acks.extend(packet.body)

    def flood(connection: socket.socket, version: str) -> None:
        threading.Thread(target=read, args=(connection,), daemon=True).start()
        connection.sendall(b"".join(messages(number, version)))
        resumed.set()
        ended.wait(30)

    with scripted_broker(accept(flood, version=version)) as url:
        receiver = receive(url, acknowledges=False, keepalive_s=1, **limit)
        wait_for(lambda: len(pings) >= 3, "pings on a link that is not read", timeout_s=20)
        last_error = receiver.session.last_error
        assert 100 < len(receiver.received) < 5_000
        assert receiver.session.connected
        assert len(steps) < 200
        assert not resumed.is_set()
        done = 0
        while done < number:
            wait_for(lambda done=done: len(receiver.received) > done, "the next messages")
            batch = receiver.received[done:]
            receiver.session.acknowledge(batch)
            done += len(batch)
        wait_for(lambda: len(acks) >= 2 * number, "all acknowledgements")
        assert receiver.session.last_error == last_error
        receiver.session.stop(drain_s=0.2)
        ended.set()
    assert [one.payload for one in receiver.received] == [index.to_bytes(700, "big") for index in range(number)]
    assert acks == b"".join((index + 1).to_bytes(2, "big") for index in range(number))


def test_a_session_that_may_not_receive_reads_nothing_and_goes_on_without_being_woken(receive):
    """Sessions that share a limit cannot wake each other."""
    pings: list[float] = []
    may_receive = threading.Event()
    received = bytearray()

    def flood(connection: socket.socket, version: str) -> None:
        connection.sendall(b"".join(messages(10, version)))
        while not may_receive.is_set() and (data := connection.recv(65536)):
            pings.extend([1] * data.count(PINGREQ))
        connection.sendall(PINGRESP)
        read_until_closed(connection, received)

    with scripted_broker(accept(flood)) as url:
        receiver = receive(url, keepalive_s=1, may_receive=may_receive.is_set)
        wait_for(lambda: len(pings) >= 2, "pings on a link that is not read", timeout_s=20)
        assert receiver.received == []
        may_receive.set()
        wait_for(lambda: len(receiver.received) == 10, "the messages")
        receiver.session.stop(drain_s=0.2)


@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        (b"\x34\x07\0\1a\0\1\0x", "a malformed packet: a message with QoS 2, which this client has not subscribed to"),
        (b"\x36\x07\0\1a\0\1\0x", "a malformed packet: a PUBLISH packet with QoS 3"),
        (b"\x32\x03\0\5a", "a malformed packet: a PUBLISH packet with QoS 1 and packet identifier 0"),
        (b"\x30\xff\xff\xff\xff\x01", "a malformed packet: a length has more than four bytes"),
        (
            b"\x90" + encode_length(2_000_000),
            "a packet of 2000000 bytes, which is larger than any",
        ),
        (b"\x90\x01\0", "a malformed packet"),
        (b"\xf0\0", "a malformed packet"),
        (b"\xe0\x01\x8b", "Server shutting down"),
        (b"\x20\x03\0\0\0", "a second CONNACK"),
    ],
)
def test_what_ends_the_connection_is_named_and_the_messages_before_it_arrive(packets, reason, receive):
    def misbehave(connection: socket.socket, version: str) -> None:
        connection.sendall(b"".join(messages(3, version)) + packets + b"".join(messages(3, version)))
        connection.recv(256)
        connection.recv(256)

    with scripted_broker(accept(misbehave)) as url:
        receiver = receive(url)
        wait_for(lambda: receiver.session.last_error != "not connected yet", "the reason")
        assert reason in receiver.session.last_error
        assert [one.packet_id for one in receiver.received[:3]] == [1, 2, 3]
        receiver.session.stop(drain_s=0.2)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_connection_that_ends_within_a_packet_is_followed_by_one_that_starts_anew(version, receive):
    connections = []
    acks = bytearray()

    def cut_off(connection: socket.socket, version: str) -> None:
        connections.append(version)
        data = b"".join(messages(10, version))
        if len(connections) == 1:
            connection.sendall(data[:3500])
            return
        connection.sendall(data)
        read_until_closed(connection, acks)

    with scripted_broker(accept(cut_off, version=version)) as url:
        receiver = receive(url, acknowledges=False)
        wait_for(lambda: len(receiver.received) == 14, "the messages of both connections", timeout_s=20)
        old, new = receiver.received[:4], receiver.received[4:]
        receiver.session.acknowledge(old + new[:1] + old + new[1:])
        wait_for(lambda: len(acks) >= 40, "the acknowledgements")
        receiver.session.stop(drain_s=0.2)
    assert [one.packet_id for one in receiver.received] == [1, 2, 3, 4, *range(1, 11)]
    assert acks[:40] == b"".join(bytes([0x40, 2, 0, packet_id]) for packet_id in range(1, 11))


def test_flags_empty_payloads_and_long_topics_are_delivered_as_they_were_sent(receive):
    sent = [
        encode_publish("a/b", b"", version5=True, packet_id=1, dup=True),
        encode_publish("t" * 65_535, b"x", version5=True, packet_id=2, retain=True),
        encode_publish("a/c", b"", version5=True),
        b"\x32" + encode_length(18) + b"\0\1a\0\3" + b"\x0b\x02\0\0\0\x3c\x03\0\3txt" + b"!",
    ]

    def send(connection: socket.socket, version: str) -> None:
        connection.sendall(b"".join(sent))
        connection.recv(256)

    with scripted_broker(accept(send)) as url:
        receiver = receive(url, acknowledges=False)
        wait_for(lambda: len(receiver.received) == 4, "all messages")
        receiver.session.stop(drain_s=0.2)
    fields = [(one.topic, one.payload, one.packet_id, one.qos, one.retain, one.dup) for one in receiver.received]
    assert fields == [
        ("a/b", b"", 1, 1, False, True),
        ("t" * 65_535, b"x", 2, 1, True, False),
        ("a/c", b"", 0, 0, False, False),
        ("a", b"!", 3, 1, False, False),
    ]


def test_a_message_that_is_too_large_is_skipped_and_one_without_a_proper_topic_is_acknowledged(receive, caplog):
    acks = bytearray()

    def send(connection: socket.socket, version: str) -> None:
        connection.sendall(encode_publish("a/large", bytes(3_000_000), version5=version == "5", packet_id=1))
        connection.sendall(
            b"\x32\x07\0\1\xff\0\2\0x" + encode_publish("a/b", b"x", version5=version == "5", packet_id=3)
        )
        read_until_closed(connection, acks)

    with scripted_broker(accept(send)) as url:
        receiver = receive(url)
        wait_for(lambda: len(acks) >= 12, "three acknowledgements")
        receiver.session.stop(drain_s=0.2)
    assert [(one.topic, one.payload) for one in receiver.received] == [("a/large", b""), ("a/b", b"x")]
    assert {bytes(acks[place : place + 4]) for place in (0, 4, 8)} == {bytes([0x40, 2, 0, one]) for one in (1, 2, 3)}
    assert "'a/large': the content of a message was skipped: it is too large" in caplog.text
    assert "its topic is not UTF-8" in caplog.text


def test_without_manual_acknowledgement_a_batch_is_acknowledged_after_its_callback(receive):
    acks = bytearray()

    def send(connection: socket.socket, version: str) -> None:
        connection.sendall(b"".join(messages(5, version)))
        read_until_closed(connection, acks)

    with scripted_broker(accept(send)) as url:
        receiver = receive(url, acknowledges=False, manual_ack=False)
        wait_for(lambda: len(acks) >= 20, "the acknowledgements")
        receiver.session.stop(drain_s=0.2)
    assert acks[:20] == b"".join(bytes([0x40, 2, 0, packet_id]) for packet_id in range(1, 6))


def test_a_callback_that_fails_ends_neither_the_connection_nor_the_thread(receive, caplog):
    def send(connection: socket.socket, version: str) -> None:
        connection.sendall(messages(1, version)[0])
        connection.recv(256)
        connection.sendall(messages(2, version)[1])
        read_until_closed(connection, bytearray())

    def fail(batch: list[Delivery]) -> None:
        received.extend(batch)
        receiver.session.acknowledge(batch)
        raise RuntimeError("a bug in the receiver")

    received: list[Delivery] = []
    with scripted_broker(accept(send)) as url:
        receiver = receive(url)
        receiver.session._callbacks._on_message = fail
        wait_for(lambda: len(received) == 2, "both messages")
        assert receiver.session.last_error == "not connected yet"
        receiver.session.stop(drain_s=0.2)
    assert "a bug in the receiver" in caplog.text


def test_garbage_after_the_connack_ends_connections_and_never_the_thread(receive, monkeypatch):
    monkeypatch.setattr("edgeexit.wire.reconnecting._FIRST_DELAY_S", 0.0)
    monkeypatch.setattr("edgeexit.wire.reconnecting._MAX_DELAY_S", 0.0)
    rng = random.Random(15)  # noqa: S311
    connections = []

    def misbehave(connection: socket.socket, version: str) -> None:
        connections.append(version)
        if len(connections) <= 200:
            connection.sendall(b"".join(messages(rng.randrange(3), version)) + rng.randbytes(rng.randrange(300)))
            connection.settimeout(0.01)
        connection.recv(256)

    with scripted_broker(accept(misbehave)) as url:
        receiver = receive(url)
        wait_for(lambda: len(connections) > 200 and receiver.session.connected, "a connection that lasts", timeout_s=30)
        receiver.session.stop(drain_s=0.2)


def test_one_of_the_two_callbacks_is_needed():
    config, options = BrokerConfig(), SessionOptions(client_id="test")
    with pytest.raises(TypeError, match="either on_message or on_messages"):
        BrokerSession(config, options)
    with pytest.raises(TypeError, match="either on_message or on_messages"):
        BrokerSession(config, options, on_message=lambda _: None, on_messages=lambda _: None)
