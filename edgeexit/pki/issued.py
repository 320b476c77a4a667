"""What a certificate of a fleet is: whose, for what, and until when."""

from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import msgspec
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgeexit.errors import ConfigError, SignatureError
from edgeexit.pki.certificates import common_name
from edgeexit.wire import check_name

BROKER: Final = "broker"
CA_FILE: Final = "ca.crt"
CERTIFICATE_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
CRL_FILE: Final = "crl.pem"
RESERVED_PREFIX: Final = "edgeexit-"
"""The common names of calibrators and operators; the access control list (ACL) of the broker grants them more."""
_MAX_FILE_BYTES: Final = 1 << 20

CertificateKind = Literal["ca", "crl", "broker", "calibrator", "operator", "device"]


class IssuedCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate, or the revocation list, and until when it is valid."""

    kind: CertificateKind
    name: str
    ends: datetime
    serial: str = ""
    """In hex; empty for the revocation list."""
    path: str = ""
    is_new: bool = False
    """False: it existed before."""
    is_revoked: bool = False


def calibrator_name(fleet: str) -> str:
    """Return the common name of the certificate of a fleet's calibrator."""
    return f"{RESERVED_PREFIX}calibrator-{fleet}"


def operator_name(fleet: str) -> str:
    """Return the common name of the certificate for sending commands to a fleet."""
    return f"{RESERVED_PREFIX}operator-{fleet}"


def check_device_name(name: str) -> str:
    """Return the name of a device. Raises ConfigError for a name that is not valid, or that grants more rights."""
    check_name("device", name)
    if name.startswith(RESERVED_PREFIX) or name == BROKER:
        raise ConfigError(f"device '{name}': names that start with '{RESERVED_PREFIX}', and '{BROKER}', are reserved")
    return name


def read_file(path: Path) -> bytes:
    """Return the content of a small file. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES)


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate in PEM. Raises SignatureError that names the file."""
    try:
        return x509.load_pem_x509_certificate(read_file(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a certificate in PEM"
        raise SignatureError(f"certificate '{path}' cannot be read: {reason}") from error


def kind_of(certificate: x509.Certificate) -> CertificateKind:
    """Return what a certificate is for; it must be one that an authority of this package issued."""
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.SERVER_AUTH in usage:
        return "broker"
    name = common_name(certificate)
    if name.startswith(f"{RESERVED_PREFIX}calibrator-"):
        return "calibrator"
    return "operator" if name.startswith(f"{RESERVED_PREFIX}operator-") else "device"


def described(
    kind: CertificateKind, certificate: x509.Certificate, path: Path, *, is_new: bool = False, is_revoked: bool = False
) -> IssuedCertificate:
    """Return the description of a certificate."""
    return IssuedCertificate(
        kind=kind,
        name=common_name(certificate),
        ends=certificate.not_valid_after_utc,
        serial=f"{certificate.serial_number:x}",
        path=str(path),
        is_new=is_new,
        is_revoked=is_revoked,
    )
