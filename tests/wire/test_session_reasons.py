"""The reason that the session names when a real broker, its TLS, or a file of the configuration stops it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgeexit.wire import BrokerConfig, BrokerSession, SessionOptions
from tests.broker import Mosquitto, free_ports
from tests.certificates import CertificateAuthority
from tests.waiting import wait_for

PASSPHRASE = "open sesame"  # noqa: S105


class Setup(NamedTuple):
    """A broker with passwords, one with mutual TLS, and the files of clients."""

    folder: Path
    passwords: Mosquitto
    mutual_tls: Mosquitto
    authority: CertificateAuthority
    other: CertificateAuthority


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("reasons")
    (folder / "wrong").write_text("wrong\n")
    authority, other = CertificateAuthority(folder / "ca"), CertificateAuthority(folder / "other", "Other")
    server = authority.issue("server")
    authority.issue("client")
    authority.issue("expired", days=(-10, -1))
    authority.issue("revoked")
    authority.issue("locked", passphrase=PASSPHRASE)
    (folder / "passphrase").write_text(f"{PASSPHRASE}\n")
    other.issue("stranger")
    tls = {
        "cafile": authority.file,
        "certfile": server.certificate,
        "keyfile": server.key,
        "require_certificate": "true",
        "crlfile": authority.revoke("revoked"),
    }
    passwords = Mosquitto(folder / "passwords", users={"camera-1": "secret"}, websockets=True)
    mutual_tls = Mosquitto(folder / "tls", tls=tls)
    passwords.start()
    mutual_tls.start()
    yield Setup(folder, passwords, mutual_tls, authority, other)
    passwords.stop()
    mutual_tls.stop()


def reason_of(version: str = "5", **config: Any) -> str:
    """Return the first reason that a session names, or "" if it connects."""
    session = BrokerSession(BrokerConfig(**config), SessionOptions(client_id="camera-1"), on_message=lambda _: None)
    session._reconnecting.version = version
    session.start()
    wait_for(lambda: session.connected or session.last_error != "not connected yet", "an attempt to connect")
    try:
        return "" if session.connected else session.last_error
    finally:
        session.stop()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("login", [{}, {"username": "camera-1", "password_file": "wrong"}, {"username": "nobody"}])
def test_a_wrong_or_missing_login_is_not_authorized(setup, login, version):
    login = {name: str(setup.folder / text) if name == "password_file" else text for name, text in login.items()}
    expected = "Not authorized; check username, password_file and the client's certificate"
    assert reason_of(url=setup.passwords.url, version=version, **login) == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "the broker ended the TLS connection: certificate required; set certificate_file and key_file"),
        ("other/stranger", "the broker ended the TLS connection: unknown ca; the broker does not trust the authority"),
        ("ca/expired", "the broker ended the TLS connection: certificate expired"),
        ("ca/revoked", "the broker ended the TLS connection: certificate revoked"),
        ("ca/locked", "locked.key' is encrypted; set key_passphrase_file"),
        ("ca/client", ""),
    ],
)
def test_what_the_broker_does_not_accept_of_the_clients_certificate_is_named(setup, name, reason, capfd):
    files = {}
    if name is not None:
        files = {
            "certificate_file": str(setup.folder / f"{name}.pem"),
            "key_file": str(setup.folder / f"{name}.key"),
        }
    found = reason_of(url=setup.mutual_tls.url, ca_file=setup.authority.file, **files)
    assert found == reason if not reason else reason in found
    assert "pass phrase" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("passphrase", "reason"), [("passphrase", ""), ("wrong", "does not open"), ("no", "cannot read")]
)
def test_an_encrypted_key_is_opened_with_key_passphrase_file(setup, passphrase, reason):
    found = reason_of(
        url=setup.mutual_tls.url,
        ca_file=setup.authority.file,
        certificate_file=str(setup.folder / "ca" / "locked.pem"),
        key_file=str(setup.folder / "ca" / "locked.key"),
        key_passphrase_file=str(setup.folder / passphrase),
    )
    assert found == reason if not reason else reason in found


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ({"hosts": ("other.example",)}, "Hostname mismatch, certificate is not valid for 'localhost'"),
        ({"days": (-10, -1)}, "certificate has expired; is the clock of this device right?"),
        ({"days": (1, 10)}, "certificate is not yet valid; is the clock of this device right?"),
    ],
)
def test_what_the_client_does_not_accept_of_the_brokers_certificate_is_named(tmp_path, server, reason):
    authority = CertificateAuthority(tmp_path / "ca")
    files = authority.issue("server", **server)
    broker = Mosquitto(tmp_path, tls={"certfile": files.certificate, "keyfile": files.key})
    broker.start()
    found = reason_of(url=broker.url, ca_file=authority.file)
    broker.stop()
    assert found == f"the broker's certificate is not accepted: {reason}"


def test_an_unknown_authority_of_the_broker_is_named(setup):
    found = reason_of(url=setup.mutual_tls.url, ca_file=setup.other.file)
    assert "the broker's certificate is not accepted" in found
    assert "set ca_file to the authority that signed it" in found


@pytest.mark.parametrize("field", ["ca_file", "certificate_file", "key_file"])
@pytest.mark.parametrize("content", [None, "not PEM\n"])
def test_a_file_that_is_missing_or_not_pem_is_named(setup, field, content):
    path = setup.folder / f"damaged-{field}"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    files = {
        "ca_file": setup.authority.file,
        "certificate_file": str(setup.folder / "ca" / "client.pem"),
        "key_file": str(setup.folder / "ca" / "client.key"),
    }
    found = reason_of(url=setup.mutual_tls.url, **{**files, field: str(path)})
    assert field in found
    assert f"'{path}'" in found
    assert ("No such file or directory" in found) == (content is None)


def test_a_key_of_another_certificate_is_named(setup):
    found = reason_of(
        url=setup.mutual_tls.url,
        certificate_file=str(setup.folder / "ca" / "client.pem"),
        key_file=str(setup.folder / "ca" / "revoked.key"),
    )
    assert "revoked.key' is not the key of certificate_file" in found


def test_a_certificate_without_its_key_is_named(setup):
    found = reason_of(url=setup.mutual_tls.url, certificate_file=str(setup.folder / "ca" / "client.pem"))
    assert "client.pem' does not contain the certificate and its key; set key_file" in found


def test_a_missing_password_file_is_named(setup):
    found = reason_of(url=setup.passwords.url, username="camera-1", password_file="/missing/password")  # noqa: S106
    assert found == "cannot read password_file '/missing/password': No such file or directory"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mqtt://127.0.0.1:{closed}", "connection refused: nothing listens on this port"),
        ("mqtt://no-such-host.invalid", "cannot resolve the host name 'no-such-host.invalid'"),
        ("mqtt://127.0.0.1:{tls}", "does it expect TLS on this port? Then write mqtts:// or wss://"),
        ("mqtts://127.0.0.1:{plain}", "does the broker speak TLS on this port? If not, write mqtt:// or ws://"),
        ("wss://127.0.0.1:{plain}", "does the broker speak TLS on this port? If not, write mqtt:// or ws://"),
        ("ws://127.0.0.1:{plain}", "does the broker accept WebSockets at path '/mqtt'?"),
        ("mqtt://127.0.0.1:{websocket}", "the server speaks HTTP; is this the broker's port?"),
    ],
)
def test_a_wrong_host_port_or_scheme_is_named(setup, url, reason):
    ports = {
        "closed": free_ports(1)[0],
        "tls": setup.mutual_tls.port,
        "plain": setup.passwords.port,
        "websocket": setup.passwords.websocket_port,
    }
    assert reason in reason_of(url=url.format(**ports))
