"""The broker session with scripted servers: what it logs, which version it tries, and that nothing ends its thread."""

import contextlib
import logging
import resource
import socket
import threading
import time

import pytest

from edgeexit.errors import MessageError
from edgeexit.wire import BrokerConfig, BrokerSession, Delivery, SessionOptions, broker_connection
from tests.agent.fleet import wait_for
from tests.wire.scripted_broker import CONNACK3, CONNACK5, scripted_broker, version_of

LOGGER = "edgeexit.wire"


def make_session(url: str, *, on_message=lambda _: None, on_connect=lambda: None, client_id="test", **options):
    return BrokerSession(
        BrokerConfig(url=url),
        SessionOptions(client_id=client_id, **options),
        on_message=on_message,
        on_connect=on_connect,
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(LOGGER)]


def test_a_server_that_closes_the_connection_is_logged_once_and_both_versions_are_tried(caplog):
    versions = []
    with scripted_broker(lambda connection: versions.append(version_of(connection.recv(64)))) as url:
        session = make_session(url)
        with caplog.at_level(logging.WARNING, LOGGER):
            session.start()
            wait_for(lambda: 4 in versions, "a connection with MQTT 3.1.1", timeout_s=20)
            session.stop()
    assert versions[:2] == [5, 5]
    (line,) = [line for line in lines(caplog) if "cannot connect" in line]
    assert "the broker closed the connection instead of answering CONNECT; does it expect TLS on this port?" in line


def test_a_reason_is_logged_again_when_it_changes(caplog, monkeypatch):
    monkeypatch.setattr("edgeexit.wire.reconnecting._FIRST_DELAY_S", 0.01)
    answers = [0x87, 0x87, 0x88, 0x88, 0x85]

    def refuse(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(bytes([0x20, 3, 0, answers.pop(0), 0]))
        connection.recv(64)

    with scripted_broker(refuse) as url, caplog.at_level(logging.WARNING, LOGGER):
        session = make_session(url)
        session.start()
        wait_for(lambda: "Client identifier" in session.last_error, "the last answer")
        assert session.version == "5"
        session.stop()
    assert [line.split(": ")[1].split(";")[0] for line in lines(caplog)] == [
        "Not authorized",
        "Server unavailable",
        "Client identifier not valid",
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (bytes([0x20, 3, 0, 0x87, 0]), "Not authorized; check username"),
        (bytes([0x20, 9, 0, 0x87, 6, 0x1F, 0, 3]) + b"why", "Not authorized (why); check username"),
        (bytes([0x20, 3, 0, 0x85, 0]), "Client identifier not valid"),
        (bytes([0x20, 2, 0, 5]), "Not authorized"),
        (bytes([0x20, 2, 0, 1]), "Unsupported protocol version"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server speaks HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "the broker expects TLS on this port; write mqtts://"),
        (b"\x00" * 20, "the broker sent a malformed packet"),
        (b"\x20\xff\xff\xff\x7f" + b"\x00" * 20, "a packet that is larger than any"),
    ],
)
def test_the_first_real_reason_is_named(answer, reason):
    def respond(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(answer)
        connection.recv(64)

    with scripted_broker(respond) as url:
        session = make_session(url)
        session.start()
        wait_for(lambda: session.last_error != "not connected yet", "the reason")
        session.stop()
    assert reason in session.last_error
    assert session.problem == session.last_error


def test_a_broker_that_answers_mqtt_5_in_3_1_1_gets_3_1_1_at_the_next_attempt():
    versions = []

    def respond(connection: socket.socket) -> None:
        versions.append(version_of(connection.recv(64)))
        connection.sendall(CONNACK3 if versions[-1] == 4 else bytes([0x20, 2, 0, 1]))
        connection.recv(64)

    with scripted_broker(respond) as url:
        session = make_session(url)
        session.start()
        assert session.wait_connected(5)
        assert session.version == "3.1.1"
        session.stop()
    assert versions == [5, 4]


def test_a_broker_that_never_answers_costs_one_timeout_per_version(monkeypatch):
    monkeypatch.setattr(broker_connection, "_CONNACK_TIMEOUT_S", 0.2)
    versions = []

    def stay_silent(connection: socket.socket) -> None:
        versions.append(version_of(connection.recv(64)))
        connection.recv(64)

    with scripted_broker(stay_silent) as url:
        session = make_session(url)
        session.start()
        wait_for(lambda: len(versions) > 1, "the second attempt")
        session.stop()
    assert versions[:2] == [5, 4]
    assert session.last_error == "no answer to CONNECT within 0.2 s"


def test_each_loss_with_a_new_reason_is_followed_by_a_line_when_the_client_is_connected_again(caplog, monkeypatch):
    monkeypatch.setattr("edgeexit.wire.reconnecting._FIRST_DELAY_S", 0.01)
    codes = [0x8B, 0x8B, 0x8B, 0x93, 0x93]

    def disconnect(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(CONNACK5 + (bytes([0xE0, 1, codes.pop(0)]) if codes else b""))
        connection.recv(64)

    with scripted_broker(disconnect) as url, caplog.at_level(logging.INFO, LOGGER):
        session = make_session(url)
        session.start()
        wait_for(lambda: not codes and session.connected, "the connection that lasts")
        wait_for(lambda: "connected" in lines(caplog)[-1], "its line")
        assert [line.split(" ")[0] for line in lines(caplog)] == ["connected", "lost", "connected", "lost", "connected"]
        session.stop()


def test_a_takeover_names_the_client_id_and_is_counted(caplog):
    def take_over(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(CONNACK5 + bytes([0xE0, 1, 0x8E]))
        connection.recv(64)

    with scripted_broker(take_over) as url, caplog.at_level(logging.WARNING, LOGGER):
        session = make_session(url, client_id="camera-1")
        session.start()
        wait_for(lambda: session.taken_over, "the takeover")
        session.stop()
    assert "lost the connection to" in lines(caplog)[-1]
    assert "another client uses the id 'camera-1'; is there a clone of this device?" in lines(caplog)[-1]


def test_a_refused_message_has_the_reason_and_is_reported_to_on_refused():
    """A broker with an ACL responds to a PUBLISH with a PUBACK of reason code 0x87 (not authorized)."""
    refused = []

    def refuse(connection: socket.socket) -> None:
        connection.recv(256)
        connection.sendall(CONNACK5)
        packet = connection.recv(256)
        length = int.from_bytes(packet[2:4], "big")
        connection.sendall(bytes([0x40, 3]) + packet[4 + length : 6 + length] + bytes([0x87]))
        connection.recv(256)

    with scripted_broker(refuse) as url:
        session = BrokerSession(
            BrokerConfig(url=url),
            SessionOptions(client_id="test"),
            on_message=lambda _: None,
            on_refused=refused.append,
        )
        session.start()
        assert session.wait_connected(5)
        publication = session.publish("a/b", b"hello")
        assert publication is not None
        assert publication.wait(5)
        session.stop()
    assert (publication.acked, publication.refused, publication.ended) == (False, "Not authorized", False)
    wait_for(lambda: refused, "the callback")
    assert refused == ["a/b"]
    assert session.unacked_bytes == 0


@pytest.mark.parametrize("codes", [[0x87, 1], []])
def test_a_refused_or_unanswered_subscription_is_a_problem_and_the_client_stays_connected(codes, caplog, monkeypatch):
    monkeypatch.setattr(broker_connection, "_SUBACK_TIMEOUT_S", 0.2)

    def respond(connection: socket.socket) -> None:
        connection.recv(256)
        connection.sendall(CONNACK5)
        packet = connection.recv(256)
        if codes:
            connection.sendall(bytes([0x90, 3 + len(codes)]) + packet[2:4] + bytes([0, *codes]))
        connection.recv(256)

    with scripted_broker(respond) as url, caplog.at_level(logging.WARNING, LOGGER):
        session = make_session(url, subscriptions=("a/policy", "a/ack"))
        session.start()
        assert session.wait_connected(5)
        wait_for(lambda: session.problem, "the problem")
        assert session.connected
        problem = session.problem
        session.stop()
    expected = "refuses the subscription to 'a/policy': Not authorized" if codes else "does not answer the subscription"
    assert expected in problem
    assert sum(problem in line for line in lines(caplog)) == 1


def test_exceptions_in_callbacks_end_neither_the_connection_nor_the_thread():
    received: list[Delivery] = []

    def send_two(connection: socket.socket) -> None:
        connection.recv(256)
        connection.sendall(CONNACK5 + bytes([0x30, 5, 0, 1]) + b"a\0x" + bytes([0x30, 5, 0, 1]) + b"a\0y")
        connection.recv(256)

    def fail(delivery: Delivery) -> None:
        received.append(delivery)
        raise RuntimeError("a bug in the receiver")

    def fail_to_connect() -> None:
        raise RuntimeError("another bug")

    with scripted_broker(send_two) as url:
        session = make_session(url, on_message=fail, on_connect=fail_to_connect)
        session.start()
        wait_for(lambda: len(received) == 2, "both messages")
        assert session.connected
        session.stop()
    assert [(one.payload, one.qos, one.retain, one.dup) for one in received] == [
        (b"x", 0, False, False),
        (b"y", 0, False, False),
    ]


def test_a_topic_that_is_not_utf_8_is_ignored_and_the_next_message_arrives():
    received = []

    def send_two(connection: socket.socket) -> None:
        connection.recv(256)
        connection.sendall(CONNACK5 + bytes([0x30, 5, 0, 1, 0xFF, 0, 1]) + bytes([0x31, 5, 0, 1]) + b"a\0y")
        connection.recv(256)

    with scripted_broker(send_two) as url:
        session = make_session(url, on_message=received.append)
        session.start()
        wait_for(lambda: received, "the second message")
        session.stop()
    assert [(one.topic, one.retain) for one in received] == [("a", True)]


def test_after_a_malformed_packet_the_client_connects_again():
    connections = []

    def misbehave(connection: socket.socket) -> None:
        connection.recv(256)
        connections.append(1)
        connection.sendall(CONNACK5 + (bytes([0x90, 1, 0]) if len(connections) == 1 else b""))
        connection.recv(256)

    with scripted_broker(misbehave) as url:
        session = make_session(url)
        session.start()
        wait_for(lambda: len(connections) == 2 and session.connected, "the second connection")
        session.stop()
    assert "malformed packet" in session.last_error


def test_messages_of_an_ended_connection_end_and_are_not_sent_again():
    """The server acknowledges nothing, closes, and records what the second connection sends."""
    second = []

    def close_first(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(CONNACK5)
        if not second:
            second.append(b"")
            connection.recv(5)
            return
        connection.settimeout(0.5)
        while data := connection.recv(256):
            second.append(data)

    with scripted_broker(close_first) as url:
        session = make_session(url)
        session.start()
        assert session.wait_connected(5)
        publications = [session.publish("a/b", b"payload" * 100) for _ in range(100)]
        assert session.unacked_bytes > 0 or publications[-1].ended
        wait_for(lambda: all(one.done for one in publications), "the end of all publications")
        assert session.unacked_bytes == 0
        wait_for(lambda: session.connected, "the second connection")
        time.sleep(0.2)
        session.stop()
    assert all(one.ended and not one.acked for one in publications)
    assert b"payload" not in b"".join(second)


def test_nothing_is_queued_without_a_connection_and_an_invalid_topic_is_an_error():
    session = make_session("mqtt://127.0.0.1:9")
    assert session.publish("a/b", b"") is None
    assert session.max_payload("a") is None
    session.stop()

    def accept(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(CONNACK5)
        connection.recv(64)

    with scripted_broker(accept) as url:
        session = make_session(url)
        session.start()
        assert session.wait_connected(5)
        for topic in ("a/+", "#", "", "x" * 65536):
            with pytest.raises(MessageError, match="is not a topic"):
                session.publish(topic, b"")
        session.stop()


def test_a_broker_that_takes_nothing_does_not_fill_the_memory():
    ended = threading.Event()

    def stall(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(CONNACK5)
        ended.wait(20)

    with scripted_broker(stall) as url:
        session = make_session(url)
        session.start()
        assert session.wait_connected(5)
        payload = b"x" * 1_000_000
        publications = [session.publish("a", payload) for _ in range(40)]
        assert [one is not None for one in publications] == [True] * 33 + [False] * 7
        assert session.unacked_bytes < 34_000_000
        ended.set()
        session.stop(drain_s=0)


@pytest.mark.parametrize("state", ["connecting", "no connack", "blocked", "in a callback"])
def test_stop_returns_in_every_state(state, monkeypatch):
    """A server that accepts and reads nothing: TLS waits for its handshake, MQTT for a CONNACK, a PUBLISH for room."""

    monkeypatch.setattr("edgeexit.wire.session._JOIN_TIMEOUT_S", 0.5)
    monkeypatch.setattr(broker_connection, "_DISCONNECT_TIMEOUT_S", 0.2)

    def respond(connection: socket.socket) -> None:
        if state in ("blocked", "in a callback"):
            connection.recv(64)
            connection.sendall(CONNACK5)
        ended.wait(20)

    ended = threading.Event()
    with scripted_broker(respond) as url:
        place = url.replace("mqtt", "mqtts") if state == "connecting" else url
        session = make_session(place, on_connect=lambda: time.sleep(3) if state == "in a callback" else None)
        session.start()
        if state in ("blocked", "in a callback"):
            assert session.wait_connected(5)
            session.publish("a/b", b"x" * 20_000_000)
        time.sleep(0.2)
        started = time.monotonic()
        session.stop(drain_s=0.1)
        took_s = time.monotonic() - started
    ended.set()
    assert took_s < 2


def test_the_status_of_a_refused_websocket_is_named():
    def forbid(connection: socket.socket) -> None:
        connection.recv(2048)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        connection.recv(64)

    with scripted_broker(forbid) as url:
        session = make_session(f"ws{url[4:]}/queue")
        session.start()
        wait_for(lambda: session.last_error != "not connected yet", "the reason")
        session.stop()
    answer = "WebSocket handshake error: the server answers 'HTTP/1.1 403 Forbidden'"
    assert session.last_error == f"{answer}; does the broker accept WebSockets at path '/queue'?"


def test_a_server_that_sends_a_header_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(broker_connection, "_CONNECT_LIMIT_S", 0.3)

    def drip(connection: socket.socket) -> None:
        connection.recv(2048)
        while True:
            connection.sendall(b"x")
            time.sleep(0.01)

    with scripted_broker(drip) as url:
        session = make_session(f"ws{url[4:]}")
        session.start()
        wait_for(lambda: session.last_error != "not connected yet", "the reason")
        session.stop()
    assert session.last_error == "timeout: no connection within 0.3 s"


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (CONNACK5, "a second CONNACK"),
        (bytes([0x34, 8, 0, 1]) + b"a\x00\x07\x00xy", "the broker sends messages with QoS 2"),
        (bytes([0xF0, 0]), "the broker sent a malformed packet"),
    ],
)
def test_a_broker_that_breaks_the_protocol_loses_the_connection(packet, reason):
    def misbehave(connection: socket.socket) -> None:
        connection.recv(256)
        connection.sendall(CONNACK5 + packet)
        connection.settimeout(3)
        while connection.recv(256):
            pass

    connects = []
    with scripted_broker(misbehave) as url:
        session = make_session(url, on_connect=lambda: connects.append(1))
        session.start()
        wait_for(lambda: session.last_error != "not connected yet", "the reason")
        assert connects == [1]
        session.stop()
    assert reason in session.last_error


def test_a_process_without_free_descriptors_names_them_and_connects_when_it_has_some():
    def accept(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(CONNACK5)
        connection.recv(64)

    with scripted_broker(accept) as url:
        session = make_session(url)
        files, limits = [], resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    files.append(socket.socket())
            session.start()
            wait_for(lambda: session.last_error != "not connected yet", "the reason")
            assert session.last_error == "Too many open files"
        finally:
            for file in files:
                file.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert session.wait_connected(5), session.last_error
        session.stop()


@pytest.mark.parametrize("connack", [CONNACK3, CONNACK5])
def test_a_message_that_is_too_large_is_skipped_so_that_it_is_not_delivered_for_ever(connack, caplog):
    received: list[Delivery] = []
    from_client: list[bytes] = []
    properties = b"" if connack == CONNACK3 else b"\x00"
    large = b"\x00\x01t\x00\x07" + properties + b"x" * 5_000_000
    small = b"\x00\x01t\x00\x08" + properties + b"small"

    def send(connection: socket.socket) -> None:
        if connack == CONNACK3 and version_of(connection.recv(64)) == 5:
            return
        connection.sendall(connack + b"\x32" + length_of(large) + large + b"\x32" + length_of(small) + small)
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            while data := connection.recv(64):
                from_client.append(data)

    with scripted_broker(send) as url, caplog.at_level(logging.WARNING, LOGGER):
        session = make_session(
            url, on_message=lambda delivery: (received.append(delivery), delivery.ack()), manual_ack=True
        )
        session.start()
        wait_for(lambda: b"\x40\x02\x00\x07\x40\x02\x00\x08" in b"".join(from_client), "both PUBACKs", timeout_s=20)
        session.stop()
    assert [(delivery.topic, delivery.payload) for delivery in received] == [("t", b""), ("t", b"small")]
    assert "'t': the content of a message was skipped: it is too large" in caplog.text


def length_of(content: bytes) -> bytes:
    """Return the length of a packet's content as MQTT encodes it, in four bytes."""
    return bytes((len(content) >> shift) & 0x7F | (0x80 if shift < 21 else 0) for shift in (0, 7, 14, 21))
