"""Stores the accepted policies on disk, so that they survive a restart or a power cut."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from edgeexit.agent.policy_check import POLICY_SLOTS, PolicySlot, Recipient, slot_of, verify_policy
from edgeexit.files import write_atomic
from edgeexit.policies import PolicyDocument
from edgeexit.signing import PublicKey
from edgeexit.wire import Rejection

_log = logging.getLogger(__name__)


class PolicyStore:
    """Stores the signed envelopes of accepted policies. After a crash each file holds the old or the new envelope.

    The store has one file per fleet, bundle, and cohort or device name. A device that returns to an earlier bundle or
    cohort therefore returns to its revision there, and rejects an older policy that is sent again.

    """

    def __init__(self, folder: Path, recipient: Recipient) -> None:
        self._folder = folder
        self._recipient = recipient
        with contextlib.suppress(OSError):  # a folder that cannot be cleaned up can still be read
            for leftover in folder.glob(".policy.*.json.*"):  # a write that a crash interrupted
                leftover.unlink(missing_ok=True)

    def save(self, slot: PolicySlot, envelope: bytes) -> None:
        """Write an envelope durably. Raises OSError if this fails; the file then holds the previous envelope."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._path(slot), envelope, mode=0o600)

    def load(self, keys: Sequence[PublicKey]) -> dict[PolicySlot, PolicyDocument]:
        """Verify the stored envelopes again and return the valid documents; log the others as warnings."""
        documents: dict[PolicySlot, PolicyDocument] = {}
        for slot in POLICY_SLOTS:
            path = self._path(slot)
            try:
                envelope = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                _log.warning("stored policy '%s' cannot be read: %s", path, error.strerror)
                continue
            document = verify_policy(envelope, keys, self._recipient)
            if isinstance(document, Rejection):
                _log.warning("stored policy '%s' is not used: %s", path, document.reason)
            elif slot_of(document) != slot:
                _log.warning("stored policy '%s' is not used: it is a %s policy", path, slot_of(document))
            else:
                documents[slot] = document
        return documents

    def _path(self, slot: PolicySlot) -> Path:
        recipient = self._recipient
        name = recipient.device if slot == "device" else recipient.cohort
        # Names contain no dots, so different names give different files.
        return self._folder / f"policy.{recipient.fleet}.{slot}.{name}.{recipient.bundle[:16]}.json"
