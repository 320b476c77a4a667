"""The folder of a fleet's certificate authority: what it has issued and revoked, and where each certificate lies.

Nothing is overwritten except a certificate by its renewal and the revocation list by its successor. A command that was
interrupted continues where it stopped when it is given again.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from edgeexit.errors import ConfigError, SignatureError
from edgeexit.files import write_atomic
from edgeexit.pki.certificates import (
    Authority,
    common_name,
    create_authority,
    create_crl,
    create_key,
    host_name,
    issue_certificate,
    utc_now,
)
from edgeexit.pki.issued import (
    BROKER,
    CA_FILE,
    CERTIFICATE_FILE,
    CRL_FILE,
    KEY_FILE,
    IssuedCertificate,
    calibrator_name,
    check_device_name,
    described,
    kind_of,
    load_certificate,
    operator_name,
    read_file,
)
from edgeexit.pki.private_folder import locked, make_folder
from edgeexit.signing import encode_private_key, read_private_key
from edgeexit.wire import check_name

_KEY: Final = "ca.key"
_THROW_AWAY: Final = timedelta(minutes=10)
_PEM: Final = serialization.Encoding.PEM


class AuthorityFolder:
    """Creates, renews, revokes and lists the certificates below one folder. Use it in a `with` block, which locks it.

    Args:
        folder: the folder.
        create: create the folder with mode 0700 if it does not exist.
        passphrase: called if the private key of the authority is encrypted.
        clock: returns the present time (UTC).

    """

    def __init__(
        self,
        folder: Path,
        *,
        create: bool = False,
        passphrase: Callable[[], str] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.folder = folder
        self._create = create
        self._ca = folder / "ca"
        self._issued = self._ca / "issued"
        self._passphrase = passphrase
        self._clock = clock
        self._authority: Authority | None = None
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> "AuthorityFolder":
        if self._create:
            make_folder(self._ca)
        elif not self._ca.is_dir():
            raise self._no_authority()
        self._lock.enter_context(locked(self._ca))
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def create(self, name: str, *, new_passphrase: str | None = None) -> IssuedCertificate:
        """Create the authority and an empty revocation list, unless they exist."""
        path = self._ca / CA_FILE
        is_new = not path.exists()
        if is_new:
            key_path = self._ca / _KEY
            key = self._create_key(key_path, passphrase=new_passphrase)
            now = self._clock()
            self._authority = create_authority(name, key, now=now)
            make_folder(self._issued)
            self._write_crl(create_crl(self._authority, now=now, previous=None))
            write_atomic(path, self._authority.certificate.public_bytes(_PEM))  # the last file: now it is complete
        certificate = load_certificate(path)
        return described("ca", certificate, path, is_new=is_new)

    def broker(self, hosts: Sequence[str]) -> IssuedCertificate:
        """Issue the certificate of the broker for these names. Raises ConfigError if it exists for other names."""
        if not hosts:
            raise ConfigError("a broker needs at least one name under which clients connect; give --host")
        wanted = [host_name(host) for host in dict.fromkeys(hosts)]
        issued = self._client_or_server(self.folder / BROKER, BROKER, hosts=hosts)
        names = list(
            load_certificate(Path(issued.path)).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
        if missing := [host for host, name in zip(dict.fromkeys(hosts), wanted, strict=True) if name not in names]:
            raise ConfigError(
                f"'{issued.path}' is not valid for host {', '.join(missing)}; revoke it with `edgeexit keys revoke "
                f"{self.folder} {BROKER}`, then create it for all hosts"
            )
        return issued

    def calibrator(self, fleet: str) -> IssuedCertificate:
        """Issue the certificate of the calibrator of a fleet."""
        return self._client_or_server(self.folder / "calibrator", calibrator_name(check_name("fleet", fleet)))

    def operator(self, fleet: str) -> IssuedCertificate:
        """Issue the certificate of those who send commands to devices."""
        return self._client_or_server(self.folder / "operator", operator_name(check_name("fleet", fleet)))

    def device(self, name: str) -> IssuedCertificate:
        """Issue the certificate of a device. Its common name is the name of the device."""
        return self._client_or_server(self.folder / "devices" / name, check_device_name(name))

    def revoke(self, name: str) -> list[IssuedCertificate]:
        """Revoke all certificates of a name, and move the newest and its private key away. Return what was revoked.

        Raises ConfigError if there is nothing to revoke.
        """
        now, revoked = self._clock(), self._revoked_serials()
        found = [(certificate, path) for certificate, path in self._all_issued() if common_name(certificate) == name]
        if not found:
            names = sorted({common_name(certificate) for certificate, _ in self._all_issued()})
            raise ConfigError(
                f"'{self.folder}' has no certificate for '{name}'; it has issued {', '.join(names[:10]) or 'none'}"
            )
        serials = [certificate.serial_number for certificate, _ in found]
        if set(serials) - revoked:
            self._write_crl(create_crl(self._load_authority(), now=now, previous=self._load_crl(), serials=serials))
        self._set_aside(found[-1][0])
        return [described(kind_of(c), c, path, is_revoked=True) for c, path in found]

    def renew_crl(self) -> IssuedCertificate:
        """Write a new revocation list with the same entries, and a later end."""
        self._write_crl(create_crl(self._load_authority(), now=self._clock(), previous=self._load_crl()))
        return self._described_crl(is_new=True)

    def renew_ending_crl(self, *, within_days: float) -> list[IssuedCertificate]:
        """Renew the revocation list if it ends soon. Return it, or nothing."""
        ends = self._described_crl().ends
        return [self.renew_crl()] if ends <= self._clock() + timedelta(days=within_days) else []

    def renew(self, names: Iterable[str] = (), *, within_days: float) -> list[IssuedCertificate]:
        """Renew the certificates with these names, or else those that end soon. The private keys stay the same."""
        wanted, now = set(names), self._clock()
        newest = {entry.name: entry for entry in self.certificates() if entry.kind not in {"ca", "crl"}}
        if unknown := wanted - newest.keys():
            raise ConfigError(f"'{self.folder}' has no certificate for '{min(unknown)}' that could be renewed")
        renewed = []
        for name, entry in newest.items():
            if name in wanted or (not wanted and entry.ends <= now + timedelta(days=within_days)):
                renewed.append(self._renew_one(load_certificate(self._issued / f"{name}-{entry.serial}.crt")))
        return renewed

    def certificates(self) -> list[IssuedCertificate]:
        """Return the authority, the revocation list, and the newest certificate of each name that is not revoked."""
        revoked = self._revoked_serials()
        newest: dict[str, x509.Certificate] = {}
        for certificate, _ in self._all_issued():
            if certificate.serial_number not in revoked:
                newest[common_name(certificate)] = certificate
        ca = self._ca / CA_FILE
        return [
            described("ca", load_certificate(ca), ca),
            self._described_crl(),
            *(described(kind_of(c), c, self._home(c) / CERTIFICATE_FILE) for _, c in sorted(newest.items())),
        ]

    def throw_away_certificate(self, name: str, folder: Path) -> None:
        """Write a key and a certificate for a name into `folder`. It is valid for minutes, so it is not recorded."""
        key, now = create_key(), self._clock()
        certificate = issue_certificate(
            self._load_authority(), key.public_key(), common_name=name, now=now, ends=now + _THROW_AWAY
        )
        write_atomic(folder / KEY_FILE, encode_private_key(key), mode=0o600)
        write_atomic(folder / CERTIFICATE_FILE, certificate.public_bytes(_PEM))
        write_atomic(folder / CA_FILE, (self._ca / CA_FILE).read_bytes())

    def _client_or_server(self, folder: Path, name: str, *, hosts: Sequence[str] = ()) -> IssuedCertificate:
        authority = self._load_authority()
        path = folder / CERTIFICATE_FILE
        is_new = not path.exists()
        if is_new:
            found = self._newest_issued(name)
            if found is not None and not os.path.lexists(folder / KEY_FILE):  # moved to where it is used
                return described(kind_of(found[0]), *found)
            make_folder(folder)
            key = self._create_key(folder / KEY_FILE)
            if found is not None and found[0].public_key() == key.public_key():  # interrupted before it was written
                certificate = found[0]
            else:
                certificate = self._issue(authority, key.public_key(), name=name, hosts=hosts)
            write_atomic(folder / CA_FILE, authority.certificate.public_bytes(_PEM))
            if name == BROKER:
                write_atomic(folder / CRL_FILE, (self._ca / CRL_FILE).read_bytes())
            write_atomic(path, certificate.public_bytes(_PEM))
        certificate = load_certificate(path)
        if common_name(certificate) != name:
            raise ConfigError(
                f"'{path}' is the certificate of '{common_name(certificate)}', not of '{name}'; give the name that the "
                "folder was made for, or another folder"
            )
        if certificate.serial_number in self._revoked_serials():  # interrupted while it was revoked
            raise ConfigError(f"'{path}' is revoked; give `edgeexit keys revoke {self.folder} {name}` again")
        return described(kind_of(certificate), certificate, path, is_new=is_new)

    def _issue(
        self, authority: Authority, public_key: object, *, name: str, hosts: Sequence[str] = ()
    ) -> x509.Certificate:
        """Sign a certificate and record it before anyone has it, so that it can be revoked."""
        certificate = issue_certificate(
            authority,
            public_key,  # type: ignore[arg-type]
            common_name=name,
            hosts=hosts,
            now=self._clock(),
        )
        make_folder(self._issued)
        path = self._issued / f"{name}-{certificate.serial_number:x}.crt"
        write_atomic(path, certificate.public_bytes(_PEM))
        return certificate

    def _newest_issued(self, name: str) -> tuple[x509.Certificate, Path] | None:
        """Return the newest certificate of a name that is valid, and where it is recorded; None if there is none."""
        revoked, now = self._revoked_serials(), self._clock()
        valid = None
        for certificate, path in self._all_issued(f"{name}-*.crt"):
            is_valid = certificate.serial_number not in revoked and certificate.not_valid_after_utc > now
            if is_valid and common_name(certificate) == name:
                valid = certificate, path
        return valid

    def _renew_one(self, old: x509.Certificate) -> IssuedCertificate:
        name, hosts = common_name(old), []
        if name == BROKER:
            names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            hosts = [str(host.value) for host in names]
        certificate = self._issue(self._load_authority(), old.public_key(), name=name, hosts=hosts)
        home = self._home(old)
        make_folder(home)
        write_atomic(home / CERTIFICATE_FILE, certificate.public_bytes(_PEM))
        return described(kind_of(old), certificate, home / CERTIFICATE_FILE, is_new=True)

    def _create_key(self, path: Path, *, passphrase: str | None = None) -> EllipticCurvePrivateKey:
        """Return the private key in a file, which is created unless it exists."""
        if not os.path.lexists(path):
            key = create_key()
            write_atomic(path, encode_private_key(key, passphrase=passphrase), mode=0o600)
            return key
        return self._load_key(path)

    def _load_key(self, path: Path) -> EllipticCurvePrivateKey:
        key = read_private_key(path, passphrase=self._passphrase)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise SignatureError(f"private key '{path}' is not a key for TLS (EC P-256); remove it and create another")
        return key

    def _load_authority(self) -> Authority:
        if self._authority is None:
            path = self._ca / CA_FILE
            if not path.exists():
                raise self._no_authority()
            certificate, key = load_certificate(path), self._load_key(self._ca / _KEY)
            if certificate.public_key() != key.public_key():
                raise SignatureError(f"'{self._ca / 'ca.key'}' is not the key of '{path}'; restore both from a backup")
            self._authority = Authority(key, certificate)
        return self._authority

    def _no_authority(self) -> ConfigError:
        return ConfigError(
            f"'{self.folder}' has no certificate authority; create it with `edgeexit keys ca {self.folder}`"
        )

    def _load_crl(self) -> x509.CertificateRevocationList:
        path = self._ca / CRL_FILE
        try:
            return x509.load_pem_x509_crl(read_file(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a revocation list"
            raise SignatureError(
                f"'{path}' cannot be read: {reason}; copy {CRL_FILE} back from the broker, so that no certificate "
                "becomes valid again"
            ) from error

    def _write_crl(self, crl: x509.CertificateRevocationList) -> None:
        content = crl.public_bytes(_PEM)
        write_atomic(self._ca / CRL_FILE, content)
        if (self.folder / BROKER).is_dir():
            write_atomic(self.folder / BROKER / CRL_FILE, content)

    def _revoked_serials(self) -> set[int]:
        return {entry.serial_number for entry in self._load_crl()}

    def _all_issued(self, pattern: str = "*.crt") -> list[tuple[x509.Certificate, Path]]:
        """Return the recorded certificates with such a file name, the newest last."""
        found = [(load_certificate(path), path) for path in self._issued.glob(pattern)]
        return sorted(found, key=lambda item: (item[0].not_valid_before_utc, item[1].stat().st_mtime_ns))

    def _described_crl(self, *, is_new: bool = False) -> IssuedCertificate:
        ends = self._load_crl().next_update_utc
        path = self._ca / CRL_FILE
        return IssuedCertificate(kind="crl", name=CRL_FILE, ends=ends or self._clock(), path=str(path), is_new=is_new)

    def _home(self, certificate: x509.Certificate) -> Path:
        kind = kind_of(certificate)
        return self.folder / "devices" / common_name(certificate) if kind == "device" else self.folder / kind

    def _set_aside(self, certificate: x509.Certificate) -> None:
        """Move a revoked certificate and its private key away, so that new ones can be created for its name."""
        target = self.folder / "revoked" / f"{common_name(certificate)}-{certificate.serial_number:x}"
        for name in (KEY_FILE, CERTIFICATE_FILE):  # in this order: no new certificate is issued for the old key
            file = self._home(certificate) / name
            if file.exists():
                make_folder(target)
                file.rename(target / name)
