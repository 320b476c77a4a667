"""The broker session with a server that closes every connection, and with a broker that refuses messages."""

import logging
import socket
import threading

from edgeexit.wire import BrokerConfig, BrokerSession, SessionOptions
from tests.agent.fleet import wait_for


def test_a_server_that_closes_the_connection_is_logged_once_and_both_versions_are_tried(caplog):
    """The protocol level in a CONNECT packet is 5 for MQTT 5 and 4 for 3.1.1."""
    levels = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_every_connection() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    levels.append(connection.recv(64)[8])

        threading.Thread(target=close_every_connection, daemon=True).start()
        config = BrokerConfig(url=f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        session = BrokerSession(config, SessionOptions(client_id="test"), on_message=lambda _: None)
        with caplog.at_level(logging.WARNING, "edgeexit.wire.session"):
            session.start()
            wait_for(lambda: 4 in levels, "a connection with MQTT 3.1.1", timeout_s=20)
            session.stop()
    assert levels[:2] == [5, 5]
    assert sum("cannot connect to the broker" in record.message for record in caplog.records) == 1


def test_a_refused_message_is_reported_to_on_refused():
    """A broker with an ACL responds to a PUBLISH with a PUBACK of reason code 0x87 (not authorized)."""
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
            SessionOptions(client_id="test"),
            on_message=lambda _: None,
            on_refused=refused.append,
        )
        session.start()
        assert session.wait_connected(5)
        assert session.publish("a/b", b"hello")
        wait_for(lambda: refused, "the refusal")
        session.stop()
    assert refused == ["a/b"]
