"""Sessions that take their messages in batches, at real brokers, and with scripted ones for what no broker does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeexit.errors import MessageError
from edgeexit.wire import broker_connection
from tests.broker import Mosquitto
from tests.waiting import wait_for
from tests.wire.batch_receiver import BatchReceiver
from tests.wire.scripted_broker import CONNACK3, CONNACK5, scripted_broker, version_of
from tests.wire.test_session_brokers import BROKERS


@pytest.fixture
def receive() -> Iterator[Any]:
    """Start receivers, wait until they are connected, and stop them at the end."""
    receivers = []

    def make(url: str, **options: Any) -> BatchReceiver:
        receivers.append(BatchReceiver(url, **options))
        assert receivers[-1].session.wait_connected(10), receivers[-1].session.last_error
        return receivers[-1]

    yield make
    for one in receivers:
        one.session.stop(drain_s=0.5)


@pytest.mark.parametrize("name", BROKERS)
def test_a_batch_receiver_gets_every_message_in_order_and_acknowledges_all(
    name: str, tmp_path: Path, receive, monkeypatch
):
    monkeypatch.setattr(broker_connection, "_CONNACK_TIMEOUT_S", 0.5)
    broker, url = BROKERS[name](tmp_path)
    broker.start()
    receiver = receive(url(broker))
    payloads = [b"", b"x" * 5000, *(b"%d" % number for number in range(40))]
    publications = [receiver.session.publish("a/b", payload) for payload in payloads]
    wait_for(lambda: len(receiver.received) >= len(payloads), "all messages")
    assert [one.payload for one in receiver.received] == payloads
    assert {(one.qos, one.retain, one.dup) for one in receiver.received} == {(1, False, False)}
    assert all(one is not None and one.wait(5) and one.acked for one in publications)
    receiver.session.stop()
    broker.stop()


@pytest.mark.parametrize("name", BROKERS)
def test_unconfirmed_messages_arrive_with_qos_0(name: str, tmp_path: Path, receive, monkeypatch):
    monkeypatch.setattr(broker_connection, "_CONNACK_TIMEOUT_S", 0.5)
    broker, url = BROKERS[name](tmp_path)
    broker.start()
    receiver = receive(url(broker))
    messages = [(f"a/{number}", b"payload %d" % number) for number in range(50)]
    assert receiver.session.publish_unconfirmed(messages)
    wait_for(lambda: len(receiver.received) >= len(messages), "all messages")
    assert [(one.topic, one.payload) for one in receiver.received] == messages
    if "mosquitto" in name:  # the others deliver with the QoS of the subscription
        assert {one.qos for one in receiver.received} == {0}
    receiver.session.stop()
    broker.stop()


def test_an_unconfirmed_message_that_is_too_large_is_left_out_and_an_invalid_topic_is_an_error(tmp_path, receive):
    broker = Mosquitto(tmp_path, max_packet_size=6000)
    broker.start()
    receiver = receive(broker.url)
    assert receiver.session.publish_unconfirmed([("a/1", b"x" * 7000), ("a/2", b"small")])
    wait_for(lambda: receiver.received, "the small message")
    assert [one.topic for one in receiver.received] == ["a/2"]
    with pytest.raises(MessageError, match="is not a topic"):
        receiver.session.publish_unconfirmed([("a/+", b"")])
    receiver.session.stop()
    broker.stop()
    assert not receiver.session.publish_unconfirmed([("a/1", b"")])


def test_messages_that_were_not_acknowledged_come_again_and_old_ones_are_left_out(tmp_path, receive):
    broker = Mosquitto(tmp_path)
    broker.start()
    first = receive(broker.url, client_id="slow", acknowledges=False)
    sender = receive(broker.url, client_id="sender", subscriptions=())
    for number in range(10):
        assert sender.session.publish("a/b", b"%d" % number)
    wait_for(lambda: len(first.received) == 10, "all messages")
    first.session.acknowledge(first.received[:4])
    first.session.stop()
    second = receive(broker.url, client_id="slow", acknowledges=False)
    wait_for(lambda: len(second.received) == 6, "the others again")
    assert [(one.payload, one.dup) for one in second.received] == [(b"%d" % number, True) for number in range(4, 10)]
    second.session.acknowledge(first.received)
    assert sender.session.publish("a/b", b"last")
    wait_for(lambda: len(second.received) == 7, "the last message")
    second.session.stop()
    third = receive(broker.url, client_id="slow")
    wait_for(lambda: len(third.received) == 7, "all that was not acknowledged on its own connection")
    broker.stop()


@pytest.mark.parametrize("connack", [CONNACK5, CONNACK3])
def test_acknowledgements_are_sent_in_order_and_each_once(connack: bytes, receive):
    sent = bytearray()

    def send_five(connection: Any) -> None:
        while version_of(connection.recv(256)) != (5 if connack == CONNACK5 else 4):
            return
        connection.sendall(connack)
        connection.recv(256)
        properties = b"\0" if connack == CONNACK5 else b""
        for number in range(1, 6):
            body = b"\0\3a/b" + bytes([0, number]) + properties + b"x"
            connection.sendall(bytes([0x32, len(body)]) + body)
        while data := connection.recv(256):
            sent.extend(data)

    with scripted_broker(send_five) as url:
        receiver = receive(url, acknowledges=False)
        wait_for(lambda: len(receiver.received) == 5, "all messages")
        receiver.session.acknowledge(receiver.received[2:])
        receiver.session.acknowledge(receiver.received)
        wait_for(lambda: len(sent) >= 20, "all acknowledgements")
        receiver.session.stop()
    assert bytes(sent[:20]) == b"".join(bytes([0x40, 2, 0, number]) for number in (3, 4, 5, 1, 2))
