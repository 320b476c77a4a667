"""X.509 certificates and revocation lists of a fleet, built from keys and times; nothing here reads a clock or a file.

Every certificate has the extensions that strict verifiers need (RFC 5280): `ssl.VERIFY_X509_STRICT` is the default of
Python 3.13.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeexit.errors import ConfigError

MAX_COMMON_NAME: Final = 64
"""The limit of RFC 5280 (`ub-common-name`)."""
AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 365
CRL_DAYS: Final = 365
"""With an expired revocation list, a broker refuses every client."""
_BACKDATED: Final = timedelta(days=1)
"""Certificates are valid from one day before they were made, for clients whose clock is slow."""
_HOST_NAME: Final = re.compile(
    r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_MAX_HOST_NAME: Final = 253
_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+")


class Authority(NamedTuple):
    """A certificate authority (CA)."""

    key: EllipticCurvePrivateKey
    certificate: x509.Certificate


def create_key() -> EllipticCurvePrivateKey:
    """Return a new private key on the curve P-256, which every TLS library takes."""
    return generate_private_key(SECP256R1())


def create_authority(name: str, key: EllipticCurvePrivateKey, *, now: datetime) -> Authority:
    """Return a self-signed CA that may sign certificates of clients and servers, but no other CA (path length 0)."""
    subject = _subject(name)
    builder = _builder(subject, subject, key.public_key(), now=now, ends=now + timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def issue_certificate(
    authority: Authority,
    public_key: CertificatePublicKeyTypes,
    *,
    common_name: str,
    hosts: Sequence[str] = (),
    now: datetime,
    ends: datetime | None = None,
) -> x509.Certificate:
    """Return a certificate for TLS: of a server with the names `hosts`, or without them of a client.

    It is valid for a year, or until `ends`, and ends no later than the certificate of the authority. Raises ConfigError
    if that has ended, and for a name that a certificate cannot contain.
    """
    authority_ends = authority.certificate.not_valid_after_utc
    if authority_ends <= now:
        raise ConfigError(
            f"the certificate of the authority ended on {authority_ends:%Y-%m-%d}; create a new authority"
        )
    builder = _builder(
        _subject(common_name),
        authority.certificate.subject,
        public_key,
        now=now,
        ends=min(ends or now + timedelta(days=CERTIFICATE_DAYS), authority_ends),
    )
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(_issuer_key(authority), critical=False)
    if hosts:
        names = x509.SubjectAlternativeName([host_name(host) for host in dict.fromkeys(hosts)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def create_crl(
    authority: Authority, *, now: datetime, previous: x509.CertificateRevocationList | None, serials: Sequence[int] = ()
) -> x509.CertificateRevocationList:
    """Return a revocation list (CRL) with the entries of the previous one and these serial numbers."""
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=authority.certificate.subject,
        last_update=now - _BACKDATED,
        next_update=now + timedelta(days=CRL_DAYS),
    )
    known = set()
    for entry in previous or ():
        known.add(entry.serial_number)
        builder = builder.add_revoked_certificate(entry)
    for serial in dict.fromkeys(serials):
        if serial not in known:
            revoked = x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=now)
            builder = builder.add_revoked_certificate(revoked.build())
    number = 1 if previous is None else previous.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    builder = builder.add_extension(_issuer_key(authority), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of the subject; empty if there is none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def host_name(host: str) -> x509.GeneralName:
    """Return a host name or an IP address as it stands in a certificate. Raises ConfigError for any other text."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    if not _HOST_NAME.fullmatch(host) or len(host) > _MAX_HOST_NAME or _DIGITS_AND_DOTS.fullmatch(host):
        raise ConfigError(
            f"host '{host}' is neither a host name (letters, digits, '-' and '.') nor an IP address; give the name "
            "under which clients connect, without mqtts:// and without a port"
        )
    return x509.DNSName(host)


def utc_now() -> datetime:
    """Return the present time without the fraction of a second, which certificates do not contain."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def _subject(name: str) -> x509.Name:
    if not 1 <= len(name) <= MAX_COMMON_NAME:
        raise ConfigError(f"'{name}' has {len(name)} characters, but a certificate names at most {MAX_COMMON_NAME}")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, *, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(issuer_name=issuer, subject_name=subject, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _issuer_key(authority: Authority) -> x509.AuthorityKeyIdentifier:
    identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
