"""The broker session against real and broken brokers."""

import logging
import socket
import threading

import pytest

from edgeexit.errors import ConfigError
from edgeexit.wire import BrokerConfig, BrokerSession
from tests.agent.fleet import wait_for


@pytest.mark.parametrize("url", ["localhost", "http://localhost:1883", "mqtt://", "mqtt://host:port"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="broker url"):
        BrokerConfig(url=url).endpoint()


def test_credentials_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(ValueError, match="password_file") as refused:
        BrokerConfig(url="mqtt://user:secret@host")
    assert "secret" not in str(refused.value)


def test_defaults_are_plain_1883_and_tls_8883():
    assert BrokerConfig(url="mqtt://a").endpoint() == ("a", 1883, False)
    assert BrokerConfig(url="mqtts://a").endpoint() == ("a", 8883, True)


def test_a_listener_that_hangs_up_is_told_once_and_both_versions_are_tried(caplog):
    """The first byte of protocol level in a CONNECT is 5 for MQTT 5 and 4 for 3.1.1."""
    levels = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    levels.append(connection.recv(64)[8])

        threading.Thread(target=hang_up, daemon=True).start()
        config = BrokerConfig(url=f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        session = BrokerSession(config, client_id="test", subscriptions=(), on_message=lambda _: None)
        with caplog.at_level(logging.WARNING, "edgeexit.wire.session"):
            session.start()
            wait_for(lambda: 4 in levels, "a try with 3.1.1", timeout_s=20)
            session.stop()
    assert levels[:2] == [5, 5]
    assert sum("not reachable" in record.message for record in caplog.records) == 1


def test_a_message_that_the_broker_refuses_is_told():
    """A broker with an ACL answers a PUBLISH with a PUBACK that says 0x87: not authorised."""
    refused = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(256)
                connection.sendall(bytes([0x20, 3, 0, 0, 0]))
                packet = connection.recv(256)
                length = int.from_bytes(packet[2:4], "big")
                connection.sendall(bytes([0x40, 3]) + packet[4 + length : 6 + length] + bytes([0x87]))
                connection.recv(256)

        threading.Thread(target=refuse, daemon=True).start()
        session = BrokerSession(
            BrokerConfig(url=f"mqtt://127.0.0.1:{server.getsockname()[1]}"),
            client_id="test",
            subscriptions=(),
            on_message=lambda _: None,
            on_refused=refused.append,
        )
        session.start()
        assert session.wait_connected(5)
        assert session.publish("a/b", b"hello")
        wait_for(lambda: refused, "the refusal")
        session.stop()
    assert refused == ["a/b"]
