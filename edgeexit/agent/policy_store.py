"""Which policies a device takes, and the files that keep them over a power cut."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from edgeexit.errors import PolicyError, SignatureError
from edgeexit.files import write_atomic
from edgeexit.policies import PolicyDocument, Rollout, decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PublicKey, verify
from edgeexit.wire import MAX_BYTES, Rejection

_log = logging.getLogger(__name__)

Slot = Literal["device", "cohort"]
SLOTS: Final[tuple[Slot, ...]] = ("device", "cohort")
"""Where a policy is kept, by its scope; the first that is filled wins: a device's pin before its cohort's policy."""

SHIPPED_REVISION: Final = 0
"""The revision of the policy in the bundle, and so of a slot that holds none."""

_MAX_REASON: Final = 300


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asked to take a policy."""

    fleet: str
    device: str
    cohort: str
    bundle: str
    """Digest of the bundle that runs."""
    exits: int
    classes: int


class Unchanged(msgspec.Struct, frozen=True, kw_only=True):
    """A valid policy that changes nothing now."""

    revision: int
    reason: str


def slot_of(document: PolicyDocument) -> Slot:
    """Return where a document with a scope is kept."""
    return "device" if document.scope is not None and document.scope.device is not None else "cohort"


def verify_policy(envelope: bytes, keys: Sequence[PublicKey], recipient: Recipient) -> PolicyDocument | Rejection:
    """Return the document in a signed envelope when it is for this device and bundle, else why not."""
    if not keys:
        return Rejection(reason="no trusted keys are configured; name the calibrator's public key in trusted_keys")
    if len(envelope) > MAX_BYTES:
        return Rejection(reason=f"it is larger than the {MAX_BYTES} bytes allowed")
    try:
        document = decode_document(verify(envelope, payload_type=PAYLOAD_TYPE, keys=keys))
    except (SignatureError, PolicyError, ValueError, RecursionError) as error:
        return Rejection(reason=one_line(str(error)))
    if (misfit := _misfit(document, recipient)) is not None:
        return Rejection(reason=misfit, revision=document.revision)
    return document


def check_policy(
    envelope: bytes, keys: Sequence[PublicKey], recipient: Recipient, in_force: Mapping[Slot, PolicyDocument]
) -> PolicyDocument | Unchanged | Rejection:
    """Decide on a policy that came in: the document to take, or why it changes nothing, or why it is refused.

    Args:
        envelope: the message.
        keys: whom to believe.
        recipient: this device.
        in_force: the document that each filled slot holds.

    """
    checked = verify_policy(envelope, keys, recipient)
    if isinstance(checked, Rejection):
        return checked
    held, revision = in_force.get(slot_of(checked)), checked.revision
    current = SHIPPED_REVISION if held is None else held.revision
    if revision < current:
        return Rejection(reason=f"revision {revision} is lower than {current}, which is in force", revision=revision)
    if revision == current:
        if held is not None and _content(held) == _content(checked):
            return Unchanged(revision=revision, reason="it is in force already")
        reason = f"revision {revision} is in force with other content; publish this under a higher revision"
        return Rejection(reason=reason, revision=revision)
    if not checked.rollout.includes(recipient.device):
        reason = f"this device is outside the first {checked.rollout.percent:g} %"
        return Unchanged(revision=revision, reason=reason)
    return checked


def _content(document: PolicyDocument) -> PolicyDocument:
    """Return what a revision stands for: all but its rollout, which the same revision is published with again."""
    return msgspec.structs.replace(document, rollout=Rollout())


def _misfit(document: PolicyDocument, recipient: Recipient) -> str | None:
    """Say why a genuine document is not for this device and bundle, or None."""
    scope = document.scope
    if scope is None:
        return "it names neither a cohort nor a device"
    for what in ("fleet", "device", "cohort"):
        named, own = getattr(scope, what), getattr(recipient, what)
        if named not in {None, own}:
            return f"it is for {what} '{named}', this {what} is '{own}'"
    if document.bundle != recipient.bundle:
        return f"it is for bundle {document.bundle[:12]}…, this device runs {recipient.bundle[:12]}…"
    if document.policy.exits != recipient.exits:
        return f"it is for {document.policy.exits} exits, the bundle has {recipient.exits}"
    if document.policy.classes not in {None, recipient.classes}:
        return f"it is for {document.policy.classes} classes, the bundle has {recipient.classes}"
    return None


class PolicyStore:
    """The signed envelopes of the policies taken; a crash leaves the old or the new one.

    There is a file for every bundle and every cohort or device name that ever took one, so that a device that goes
    back to an earlier bundle or cohort also goes back to its revision, and takes no older policy that is replayed.

    """

    def __init__(self, folder: Path, recipient: Recipient) -> None:
        self._folder = folder
        self._recipient = recipient
        with contextlib.suppress(OSError):  # a folder that cannot be tidied can still be read
            for leftover in folder.glob(".policy.*.json.*"):  # of a write that a crash cut short
                leftover.unlink(missing_ok=True)

    def save(self, slot: Slot, envelope: bytes) -> None:
        """Keep an envelope durably. Raises OSError; the old one stays then."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(slot), envelope)

    def load(self, keys: Sequence[PublicKey]) -> dict[Slot, PolicyDocument]:
        """Return the stored policies that still hold for this device, verified again; log those that do not."""
        found: dict[Slot, PolicyDocument] = {}
        for slot in SLOTS:
            try:
                envelope = self._path(slot).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                _log.warning("stored policy '%s' cannot be read: %s", self._path(slot), error.strerror)
                continue
            checked = verify_policy(envelope, keys, self._recipient)
            if isinstance(checked, Rejection):
                _log.warning("stored policy '%s' is not used: %s", self._path(slot), checked.reason)
            elif slot_of(checked) != slot:
                _log.warning("stored policy '%s' is not used: it is a %s policy", self._path(slot), slot_of(checked))
            else:
                found[slot] = checked
        return found

    def _path(self, slot: Slot) -> Path:
        to = self._recipient
        name = to.device if slot == "device" else to.cohort
        return self._folder / f"policy.{to.fleet}.{slot}.{name}.{to.bundle[:16]}.json"  # no name has a dot in it


def one_line(text: str) -> str:
    """Return a reason fit for a log line and a small message: printable, on one line, of bounded length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_REASON]).split())
    return line if len(line) <= _MAX_REASON else f"{line[: _MAX_REASON - 1]}…"
