"""Certificates as other programs see them: OpenSSL and Python's strict verification."""

import shutil
import socket
import ssl
import subprocess
import threading
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgeexit.errors import ConfigError
from edgeexit.pki.certificates import create_authority, create_crl, create_key, host_name, issue_certificate, utc_now
from edgeexit.signing import encode_private_key

STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
NOW = utc_now()


@pytest.fixture(scope="module")
def authority():
    return create_authority("EdgeExit shop", create_key(), now=NOW)


@pytest.fixture
def write(tmp_path, authority):
    """Return a function that writes a certificate with its key; `ca.crt` and an empty `crl.pem` are there."""
    (tmp_path / "ca.crt").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "crl.pem").write_bytes(create_crl(authority, now=NOW, previous=None).public_bytes(Encoding.PEM))

    def write(name, hosts=(), **options):
        key = create_key()
        certificate = issue_certificate(authority, key.public_key(), common_name=name, hosts=hosts, now=NOW, **options)
        (tmp_path / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (tmp_path / f"{name}.key").write_bytes(encode_private_key(key))
        return certificate

    return write


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_takes_them_in_its_strict_mode(write, authority, tmp_path):
    def verify(name, purpose):
        command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", "ca.crt", "-CRLfile", "crl.pem"]
        ended = subprocess.run(
            [*command, "-purpose", purpose, f"{name}.crt"], cwd=tmp_path, capture_output=True, check=False
        )
        return ended.stderr.decode() if ended.returncode else "OK"

    write("server", ["broker.example", "10.0.0.1", "::1"])
    client = write("client")
    assert (verify("server", "sslserver"), verify("client", "sslclient")) == ("OK", "OK")
    assert "unsuitable certificate purpose" in verify("server", "sslclient")
    assert "unsuitable certificate purpose" in verify("client", "sslserver")
    empty = x509.load_pem_x509_crl((tmp_path / "crl.pem").read_bytes())
    crl = create_crl(authority, now=NOW, previous=empty, serials=[client.serial_number])
    (tmp_path / "crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    assert "certificate revoked" in verify("client", "sslclient")
    assert verify("server", "sslserver") == "OK"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "a.shop.example"])
def test_python_verifies_both_sides_strictly_and_the_name_of_the_server(write, tmp_path, host):
    write("server", ["localhost", "127.0.0.1", "::1", "*.shop.example"])
    write("client")
    peer, error = handshake(tmp_path, host)
    assert error is None
    assert dict(pair for part in peer["subject"] for pair in part) == {"commonName": "client"}


def test_a_server_is_refused_under_a_name_that_its_certificate_does_not_contain(write, tmp_path):
    write("server", ["localhost"])
    write("client")
    _, error = handshake(tmp_path, "elsewhere")
    assert "Hostname mismatch" in str(error)


def handshake(folder, host):
    """Connect a client to a server with mutual TLS; return the client's certificate and the error of the client."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.load_verify_locations(folder / "crl.pem")
    client = ssl.create_default_context(cafile=folder / "ca.crt")
    client.load_cert_chain(folder / "client.crt", folder / "client.key")
    server.verify_flags |= STRICT | ssl.VERIFY_CRL_CHECK_LEAF
    client.verify_flags |= STRICT
    one, other = socket.socketpair()
    found = []

    def serve():
        try:
            with server.wrap_socket(one, server_side=True) as connection:
                found.append(connection.getpeercert())
        except (OSError, ssl.SSLError):
            found.append(None)

    thread = threading.Thread(target=serve)
    thread.start()
    error = None
    try:
        with client.wrap_socket(other, server_hostname=host) as connection:
            connection.recv(1)
    except (OSError, ssl.SSLError) as raised:
        error = raised
    other.close()
    thread.join()
    return found[0], error


def test_lifetimes_and_serial_numbers_are_sane(authority):
    certificates = [
        issue_certificate(authority, create_key().public_key(), common_name="a", now=NOW) for _ in range(20)
    ]
    assert len({certificate.serial_number for certificate in certificates}) == 20
    assert min(certificate.serial_number.bit_length() for certificate in certificates) > 128
    ends = {certificate.not_valid_after_utc - NOW for certificate in certificates}
    assert ends == {timedelta(days=365)}
    assert authority.certificate.not_valid_after_utc - NOW == timedelta(days=3650)
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)


def test_no_certificate_outlives_the_authority_and_an_ended_one_issues_none(authority):
    key = create_key().public_key()
    ends = authority.certificate.not_valid_after_utc
    late = issue_certificate(authority, key, common_name="a", now=ends - timedelta(days=3))
    assert late.not_valid_after_utc == ends
    with pytest.raises(ConfigError, match="ended on"):
        issue_certificate(authority, key, common_name="a", now=ends)


def test_a_revocation_list_keeps_its_entries_and_counts(authority):
    first = create_crl(authority, now=NOW, previous=None, serials=[5, 5])
    second = create_crl(authority, now=NOW + timedelta(days=1), previous=first, serials=[5, 7])
    assert [(entry.serial_number, entry.revocation_date_utc) for entry in second] == [
        (5, NOW),
        (7, NOW + timedelta(days=1)),
    ]
    numbers = [crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in (first, second)]
    assert numbers == [1, 2]
    assert second.is_signature_valid(authority.certificate.public_key())


@pytest.mark.parametrize(
    "host",
    [
        *("", "mqtts://broker", "broker:8883", "a b", "-a", "a..b", "ä.example", "1.2.3", "1.2.3.4.5", "*", "a" * 64),
        *("a,b", "a.b." * 70 + "c", "a\n", "[::1]", "a/b", "*.*.example"),
    ],
)
def test_what_is_no_host_name_is_refused(host):
    with pytest.raises(ConfigError, match="neither a host name"):
        host_name(host)


@pytest.mark.parametrize("name", ["", "a" * 65])
def test_a_name_that_a_certificate_has_no_room_for_is_refused(authority, name):
    with pytest.raises(ConfigError, match="at most 64"):
        issue_certificate(authority, create_key().public_key(), common_name=name, now=NOW)


def test_the_clock_of_certificates_has_a_time_zone():
    assert utc_now().tzinfo is timezone.utc
    assert abs(utc_now() - datetime.now(timezone.utc)) < timedelta(minutes=1)
