"""The identity key of a device: it signs audits, and the calibrator knows the device by it."""

import logging
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from edgeexit.errors import SignatureError
from edgeexit.files import write_atomic
from edgeexit.signing import PrivateKey, load_private_key, public_key_text
from edgeexit.wire.audit_signing import sign_audit

_log = logging.getLogger(__name__)

FILE: Final = "identity.key"


class DeviceIdentity:
    """Signs the audits of a device.

    Args:
        folder: state folder; the key is created there at the first start. If it cannot be stored, or the file is
            damaged, the device has a new key until the next start, and `problem` says why.

    """

    def __init__(self, folder: Path) -> None:
        self.problem: str | None = None
        """Why the key is not the one that is stored, or None."""
        self._key = self._load(folder / FILE)
        self.public_key: Final = public_key_text(self._key.public_key())
        """The public key, as messages contain it."""

    def sign_audit(self, audit: bytes, *, topic: str) -> bytes:
        """Return the payload of `up/audit` for the JSON of an audit."""
        return sign_audit(audit, topic=topic, key=self._key)

    def _load(self, path: Path) -> PrivateKey:
        if path.exists():
            try:
                return load_private_key(path)
            except SignatureError as error:
                self._warn(str(error))
                return PrivateKey.generate()
        key = PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            write_atomic(path, pem, mode=0o600)
        except OSError as error:
            self._warn(f"identity key '{path}' cannot be stored: {error.strerror or error}")
        return key

    def _warn(self, problem: str) -> None:
        self.problem = problem
        _log.warning("%s; the device has a new identity until the next start", problem)


def read_identity(folder: Path) -> str:
    """Return the public identity key of the device with this state folder, as messages contain it.

    Raises SignatureError if there is none, or it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        raise SignatureError(f"'{folder}' has no identity key yet; the agent creates '{FILE}' at its first start")
    return public_key_text(load_private_key(path).public_key())
