"""Stores the accepted policies on disk, so that they survive a restart, a power cut and a damaged file."""

import contextlib
import logging
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.agent.checked_file import read_checked, write_checked
from edgeexit.agent.policy.check import SHIPPED_REVISION, PolicySlot, Recipient
from edgeexit.files import read_limited, write_atomic
from edgeexit.policies.document import Revision
from edgeexit.wire import MAX_BYTES, Reversion

_log = logging.getLogger(__name__)

_NEWEST: Final = "policy"
_LAST_GOOD: Final = "last_good"
_RECORDS: Final = ("accepted", "accepted_copy")
"""Two files, so that one damaged file loses neither the highest revision nor a reversion."""
_KINDS: Final = (_NEWEST, _LAST_GOOD, *_RECORDS)


class SlotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a slot remembers apart from the policies themselves."""

    accepted: Revision = SHIPPED_REVISION
    """The highest accepted revision: no lower one is accepted, even if the files of the policies are damaged."""
    reverted: Reversion | None = None
    """The accepted policy, if the device has reverted it."""


class StoredSlot(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one slot, as they are; envelopes are not verified."""

    newest: bytes | None = None
    """Envelope of the policy that was accepted last."""
    last_good: bytes | None = None
    """Envelope of the last policy that passed its trial; it may be the newest one."""
    record: SlotRecord = SlotRecord()
    """The newer one of the two copies that are not damaged."""


class PolicyStore:
    """Stores the signed envelopes of accepted policies. After a crash each file has its old or its new content.

    A slot has four files per fleet, bundle, and cohort or device name. A device that returns to an earlier bundle or
    cohort therefore returns to its revision there, and rejects an older policy that is sent again.

    """

    def __init__(self, folder: Path, recipient: Recipient) -> None:
        self._folder = folder
        self._recipient = recipient

    def remove_leftovers(self) -> None:
        """Remove what interrupted writes left. Call it only while the state folder is locked."""
        with contextlib.suppress(OSError):  # a folder that cannot be cleaned up can still be read
            for kind in _KINDS:
                for leftover in self._folder.glob(f".{kind}.*.json.*"):
                    leftover.unlink(missing_ok=True)

    def name(self, slot: PolicySlot) -> str:
        """Return the name of the file that holds the newest policy of a slot; no other recipient has the same."""
        return self._path(_NEWEST, slot).name

    def save_newest(self, slot: PolicySlot, envelope: bytes, record: SlotRecord) -> None:
        """Store an accepted policy durably. Raises OSError if this fails; each file then has its old or new content."""
        self._write(_NEWEST, slot, envelope)
        for kind in _RECORDS:
            write_checked(self._path(kind, slot), record)

    def save_last_good(self, slot: PolicySlot, envelope: bytes) -> None:
        """Store a policy that has passed its trial. Raises OSError if this fails."""
        self._write(_LAST_GOOD, slot, envelope)

    def save(self, slot: PolicySlot, held: StoredSlot) -> None:
        """Store all files of a slot that have other content. Raises OSError if that fails."""
        stored = self.load(slot)
        for kind, before, envelope in (
            (_NEWEST, stored.newest, held.newest),
            (_LAST_GOOD, stored.last_good, held.last_good),
        ):
            if envelope is not None and envelope != before:
                self._write(kind, slot, envelope)
        for kind in _RECORDS:
            if held.record not in {self._read_record(kind, slot), SlotRecord()}:
                write_checked(self._path(kind, slot), held.record)

    def load(self, slot: PolicySlot) -> StoredSlot:
        """Return what is stored; log what is not readable."""
        records = [record for kind in _RECORDS if (record := self._read_record(kind, slot)) is not None]
        return StoredSlot(
            newest=self._read(_NEWEST, slot),
            last_good=self._read(_LAST_GOOD, slot),
            record=max(records, key=lambda one: (one.accepted, one.reverted is not None), default=SlotRecord()),
        )

    def _read_record(self, kind: str, slot: PolicySlot) -> SlotRecord | None:
        try:
            return read_checked(self._path(kind, slot), SlotRecord)
        except (OSError, ValueError) as error:
            _log.warning("a record of the accepted policies is not used: %s", error)
            return None

    def _read(self, kind: str, slot: PolicySlot) -> bytes | None:
        path = self._path(kind, slot)
        try:
            return read_limited(path, max_bytes=MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _log.warning("stored policy '%s' cannot be read: %s", path, error.strerror)
            return None

    def _write(self, kind: str, slot: PolicySlot, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._path(kind, slot), content, mode=0o600)

    def _path(self, kind: str, slot: PolicySlot) -> Path:
        recipient = self._recipient
        name = recipient.device if slot == "device" else recipient.cohort
        # Names contain no dots, so different names give different files.
        return self._folder / f"{kind}.{recipient.fleet}.{slot}.{name}.{recipient.bundle[:16]}.json"
