"""Keeps the key sets of the fleet that the device has accepted: in memory, and on the disk for the next start."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeexit.errors import SignatureError
from edgeexit.files import read_limited, write_atomic
from edgeexit.key_set import TrustedKeys
from edgeexit.wire import MAX_BYTES

_log = logging.getLogger(__name__)

_RETRY_S: Final = 10.0
_COPIES: Final = ("keys", "keys_copy")
"""Two files, so that one damaged file does not bring revoked keys back."""


class KeyStore:
    """The keys that the device trusts now: those of the newest key set, or of its configuration before the first one.

    Only one thread may call `receive` and `retry`.

    Args:
        folder: state folder.
        fleet: name of the fleet, which is a part of the names of the files.
        configured: the keys of the configuration.
        clock: returns monotonic seconds.

    Attributes:
        trusted: the keys that are trusted now.

    """

    def __init__(
        self, folder: Path, fleet: str, configured: TrustedKeys, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._retry_at = 0.0
        self._paths = tuple(folder / f"{name}.{fleet}.json" for name in _COPIES)
        self._unsaved: str | None = None
        self._damaged: str | None = None
        self._incomplete = False
        """True if a copy is damaged or missing, and the other one has the key set."""
        self.trusted = self._load(configured)

    @property
    def problem(self) -> str | None:
        """Why the stored key set is not the one that is used, or None."""
        return self._unsaved or self._damaged

    def receive(self, history: bytes) -> bool:
        """Use a newer key set from now on; return False if it is the present one. Raises SignatureError."""
        trusted = self.trusted.updated(history)
        if trusted is self.trusted:
            return False
        self.trusted, self._damaged = trusted, None
        _log.info("key set version %d accepted", trusted.version)
        self._save()
        return True

    def retry(self) -> None:
        """Store the key set if that has failed before, at most every 10 s, or if one of its copies is damaged."""
        if self._incomplete or (self._unsaved is not None and self._clock() >= self._retry_at):
            self._save()

    def store_again(self) -> None:
        """Store the key set: the state folder was removed."""
        if self.trusted.version:
            self._save()

    def _save(self) -> None:
        """Store the key set. Until that succeeds, it is used all the same: a revocation cannot wait."""
        self._incomplete = False
        try:
            for path in self._paths:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomic(path, self.trusted.history, mode=0o600)
        except OSError as error:
            problem = f"key set version {self.trusted.version} cannot be stored: {error.strerror or error}"
            if self._unsaved is None:
                _log.warning("%s; retrying", problem)
            self._unsaved, self._retry_at = problem, self._clock() + _RETRY_S
        else:
            self._unsaved = None

    def _load(self, configured: TrustedKeys) -> TrustedKeys:
        stored = [self._read(path, configured) for path in self._paths]
        newest = max((keys for keys in stored if keys is not None), key=lambda keys: keys.version, default=configured)
        self._incomplete = any(keys is None or keys.version < newest.version for keys in stored) and newest.version > 0
        if None in stored and newest.version == 0:
            self._damaged = (
                "the stored key set cannot be used; the keys of the configuration are trusted until it arrives again"
            )
            _log.warning("%s", self._damaged)
        return newest

    @staticmethod
    def _read(path: Path, configured: TrustedKeys) -> TrustedKeys | None:
        """Return the keys that a file gives: those of the configuration if there is none, and None if it is damaged."""
        try:
            return configured.updated(read_limited(path, max_bytes=MAX_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return configured
        except (OSError, SignatureError) as error:
            _log.warning("stored key set '%s' is not used: %s", path, getattr(error, "strerror", None) or error)
            return None
