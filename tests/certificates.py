"""Certificates for tests of TLS: valid, expired, not yet valid, of another authority, with an encrypted key."""

from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class IssuedFiles(NamedTuple):
    """A certificate and its key, as PEM files."""

    certificate: str
    key: str


class CertificateAuthority:
    """An authority in a folder; `file` is its certificate."""

    def __init__(self, folder: Path, name: str = "Test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issued: dict[str, int] = {}
        builder = self._builder(self._name, self._key, days=(-1, 365))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file = str(folder / "ca.pem")
        Path(self.file).write_bytes(self._sign(builder))

    def issue(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        days: tuple[int, int] = (-1, 30),
        passphrase: str | None = None,
    ) -> IssuedFiles:
        """Return a certificate that is valid from and until these days from now, for a server and a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, days)
        names = x509.SubjectAlternativeName([_general_name(one) for one in hosts])
        builder = builder.add_extension(names, critical=False)
        files = IssuedFiles(str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key"))
        Path(files.certificate).write_bytes(self._sign(builder))
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase.encode())
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        Path(files.key).write_bytes(key.private_bytes(pem, pkcs8, encryption))
        self._issued[name] = x509.load_pem_x509_certificate(Path(files.certificate).read_bytes()).serial_number
        return files

    def revoke(self, *names: str) -> str:
        """Return the file of a revocation list with these names."""
        now = datetime.now(timezone.utc)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - timedelta(days=1)).next_update(now + timedelta(days=30))
        for name in names:
            one = x509.RevokedCertificateBuilder().serial_number(self._issued[name]).revocation_date(now)
            builder = builder.add_revoked_certificate(one.build())
        file = self._folder / "revocations.pem"
        file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return str(file)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: tuple[int, int]
    ) -> x509.CertificateBuilder:
        now = datetime.now(timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
