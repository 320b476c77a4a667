"""The session on slow and dead links, and through an HTTP proxy."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeexit.wire import BrokerConfig, BrokerSession, Delivery, SessionOptions
from edgeexit.wire.packet_loop import PacketLoop
from tests.broker import Mosquitto, free_ports
from tests.certificates import CertificateAuthority
from tests.waiting import wait_for
from tests.wire.tcp_relay import TcpRelay


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    one = Mosquitto(tmp_path)
    one.start()
    yield one
    one.stop()


def connect(url: str, received: list[Delivery], *, keepalive_s: int = 30, **config: str) -> BrokerSession:
    session = BrokerSession(
        BrokerConfig(url=url, **config),
        SessionOptions(client_id="client", subscriptions=("a",), keepalive_s=keepalive_s),
        on_message=received.append,
    )
    session.start()
    return session


def test_a_message_that_takes_longer_than_the_keepalive_arrives_on_a_slow_link(broker, monkeypatch):
    """It takes 3 s; nothing arrives meanwhile, and a PINGREQ would wait behind it. The event loop waits, too."""
    steps = []
    step = PacketLoop.step
    monkeypatch.setattr(PacketLoop, "step", lambda loop, wait_s: (steps.append(1), step(loop, wait_s)))
    received: list[Delivery] = []
    with TcpRelay(broker.port, bytes_per_s=40_000) as relay:
        session = connect(f"mqtt://127.0.0.1:{relay.port}", received, keepalive_s=1)
        assert session.wait_connected(5)
        publication = session.publish("a", b"x" * 110_000)
        assert publication is not None
        assert not publication.written
        assert session.publish("a", b"the next one") is not None
        assert session.unacked_bytes > 110_000
        wait_for(lambda: publication.done, "the end of the publication")
        assert publication.acked
        assert session.last_error == "not connected yet"
        assert len(steps) < 500
        session.stop()


@pytest.mark.parametrize("dead", ["link", "broker"])
def test_a_dead_link_or_broker_is_noticed_by_the_keepalive(broker, dead):
    """A stopped process: its operating system still acknowledges what arrives."""
    with TcpRelay(broker.port) as relay:
        session = connect(f"mqtt://127.0.0.1:{relay.port}", [], keepalive_s=1)
        assert session.wait_connected(5)
        publication = None
        if dead == "link":
            relay.stand_still()
            publication = session.publish("a", b"x")
        else:
            os.kill(broker._process.pid, signal.SIGSTOP)
        wait_for(lambda: not session.connected, "the end of the connection")
        assert session.last_error == "no answer to PINGREQ: the link or the broker is dead"
        assert publication is None or publication.ended
        os.kill(broker._process.pid, signal.SIGCONT)
        session.stop()


def test_a_wss_connection_goes_through_an_http_proxy_with_a_password_from_a_file(tmp_path):
    authority = CertificateAuthority(tmp_path / "ca")
    files = authority.issue("server")
    broker = Mosquitto(tmp_path / "wss", tls={"certfile": files.certificate, "keyfile": files.key}, websockets=True)
    broker.start()
    password = tmp_path / "password"
    password.write_text("secret\n")
    received: list[Delivery] = []
    with TcpRelay(broker.websocket_port, http_answer="200 Connection established") as proxy:
        session = connect(
            f"wss://localhost:{broker.websocket_port}",
            received,
            ca_file=authority.file,
            proxy=f"http://camera@127.0.0.1:{proxy.port}",
            proxy_password_file=str(password),
        )
        assert session.wait_connected(5), session.last_error
        session.publish("a", b"hello")
        wait_for(lambda: received, "the message")
        session.stop()
    broker.stop()
    (request,) = proxy.requests
    assert request.startswith(f"CONNECT localhost:{broker.websocket_port} HTTP/1.")
    assert "Proxy-Authorization: Basic Y2FtZXJhOnNlY3JldA==" in request


@pytest.mark.parametrize("answer", ["407 Proxy Authentication Required", "403 Forbidden", "nonsense", None])
def test_what_the_proxy_refuses_is_named(broker, answer):
    with TcpRelay(broker.port, http_answer=answer or "") as relay:
        port = free_ports(1)[0] if answer is None else relay.port
        session = connect(broker.url, [], proxy=f"http://127.0.0.1:{port}")
        wait_for(lambda: session.last_error != "not connected yet", "the reason")
        session.stop()
    place = f"the proxy at 127.0.0.1:{port}"
    if answer is None:
        assert session.last_error == f"cannot connect to {place}: Connection refused"
    else:
        text = "it does not speak HTTP" if answer == "nonsense" else answer
        assert session.last_error == f"{place} does not connect to 127.0.0.1:{broker.port}: {text}"
