"""The identity key of a device: it signs audits, and the calibrator knows the device by it."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeexit.errors import SignatureError
from edgeexit.files import read_limited, write_atomic
from edgeexit.signing import PrivateKey, decode_private_key, encode_private_key, public_key_text
from edgeexit.wire.audit_signing import sign_audit

_log = logging.getLogger(__name__)

FILE: Final = "identity.key"
DAMAGED: Final = "identity.key.damaged"
_MAX_BYTES: Final = 4096
_RETRY_S: Final = 60.0
_LABEL: Final = b"identity "
"""Start of the first line of the file, which names the public key: a flipped bit can turn one key into another."""


class DeviceIdentity:
    """Signs the audits of a device.

    The key is created at the first start. If it cannot be stored, or its file is removed, `retry` stores it again. A
    damaged file is set aside. A file that cannot be read stays: then the device has another key until the next start.
    In each of these cases `problem` says why the calibrator sees another device.

    Args:
        folder: state folder; it is created by whoever locks it.
        clock: returns monotonic seconds.

    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lost: str | None = None
        self._unstored: str | None = None
        self._path = folder / FILE
        self._clock = clock
        self._check_at = clock() + _RETRY_S
        self._key = self._load() or self._create()
        self.public_key: Final = public_key_text(self._key.public_key())
        """The public key, as messages contain it."""

    @property
    def problem(self) -> str | None:
        """Why the key is not the one that was stored before, or is not stored now; None if all is well."""
        return "; ".join(filter(None, (self._lost, self._unstored))) or None

    def sign_audit(self, audit: bytes, *, topic: str) -> bytes:
        """Return the payload of `up/audit` for the JSON of an audit."""
        return sign_audit(audit, topic=topic, key=self._key)

    def retry(self) -> None:
        """Store the key if there is no file, because the disk was full or the state folder was removed.

        Call it often: it looks once per minute. A file that is there is never replaced.
        """
        if self._clock() < self._check_at:
            return
        self._check_at = self._clock() + _RETRY_S
        if not os.path.lexists(self._path) and self._store(self._key):
            _log.info("identity key '%s' is stored again", self._path)

    def store_again(self) -> None:
        """Store the key if its file is gone: the state folder was removed."""
        if not self._path.exists() and self._store(self._key):
            _log.info("identity key '%s' is stored again", self._path)

    def _load(self) -> PrivateKey | None:
        """Return the stored key, or another one if the file cannot be read; None if a key is to be stored."""
        try:
            content = _read(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._lose(f"identity key '{self._path}' cannot be read: {error.strerror or error}")
            return PrivateKey.generate()
        try:
            return _decode(content, self._path)
        except SignatureError as error:
            return self._after_damage(str(error))

    def _after_damage(self, reason: str) -> PrivateKey | None:
        aside = self._path.with_name(DAMAGED)
        try:
            self._path.replace(aside)
        except OSError as error:
            self._lose(f"{reason}, and it cannot be set aside: {error.strerror or error}")
            return PrivateKey.generate()
        self._lose(f"{reason}; it is set aside as '{aside}'")
        return None

    def _create(self) -> PrivateKey:
        key = PrivateKey.generate()
        self._store(key)
        return key

    def _store(self, key: PrivateKey) -> bool:
        """Store the key; return True if it is stored."""
        label = _LABEL + public_key_text(key.public_key()).encode() + b"\n"
        try:
            write_atomic(self._path, label + encode_private_key(key), mode=0o600)
        except OSError as error:
            if self._unstored is None:
                self._unstored = f"identity key '{self._path}' cannot be stored: {error.strerror or error}"
                _log.warning("%s; if it is not stored until the next start, the device gets a new one", self._unstored)
            return False
        self._unstored = None
        return True

    def _lose(self, problem: str) -> None:
        self._lost = problem
        _log.warning("%s; the device has a new identity, which the calibrator may have to approve", problem)


def read_identity(folder: Path) -> str:
    """Return the public identity key of the device with this state folder, as messages contain it.

    Raises SignatureError if there is none, or it cannot be read.
    """
    path = folder / FILE
    try:
        return public_key_text(_decode(_read(path), path).public_key())
    except FileNotFoundError as error:
        raise SignatureError(
            f"'{folder}' contains no identity key; give the agent's state_dir. The agent creates '{FILE}' there at its "
            "first start"
        ) from error
    except OSError as error:
        raise SignatureError(f"identity key '{path}' cannot be read: {error.strerror or error}") from error


def _read(path: Path) -> bytes:
    try:
        return read_limited(path, max_bytes=_MAX_BYTES)
    except NotADirectoryError as error:
        raise FileNotFoundError from error


def _decode(content: bytes, path: Path) -> PrivateKey:
    """Return the key in a file. Raises SignatureError, which contains nothing of the file, if it is damaged."""
    label, _, pem = content.partition(b"\n")
    if not label.startswith(_LABEL):
        pem = content  # a key that `edgeexit keygen` created
    key = decode_private_key(pem, name=str(path))
    if label.startswith(_LABEL) and label[len(_LABEL) :] != public_key_text(key.public_key()).encode():
        raise SignatureError(f"identity key '{path}' is damaged")
    return key
