"""Decides whether a received policy is accepted, changes nothing, or is rejected. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from edgeexit.errors import PolicyError, SignatureError
from edgeexit.log_text import one_line
from edgeexit.policies import PolicyDocument, Rollout, decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PublicKey, verify
from edgeexit.wire import MAX_BYTES, Rejection

PolicySlot = Literal["device", "cohort"]
POLICY_SLOTS: Final[tuple[PolicySlot, ...]] = ("device", "cohort")
"""One slot per scope, each for one policy. The first slot that is not empty holds the active policy: a policy for this
device overrides the policy of its cohort."""

SHIPPED_REVISION: Final = 0
"""Revision of the policy that ships with the bundle; an empty slot counts as this revision."""


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """The device and bundle that a policy must be addressed to."""

    fleet: str
    device: str
    cohort: str
    bundle: str
    """Digest of the bundle that the agent runs."""
    exits: int
    classes: int


class Unchanged(msgspec.Struct, frozen=True, kw_only=True):
    """The result for a valid policy that changes nothing now."""

    revision: int
    reason: str


def slot_of(document: PolicyDocument) -> PolicySlot:
    """Return the slot of a document that has a scope."""
    return "device" if document.scope is not None and document.scope.device is not None else "cohort"


def verify_policy(envelope: bytes, keys: Sequence[PublicKey], recipient: Recipient) -> PolicyDocument | Rejection:
    """Return the document in a signed envelope if a trusted key signed it for this device and bundle."""
    if not keys:
        return Rejection(
            reason="no key may sign policies here; add the calibrator's public key to policy_keys or trusted_keys"
        )
    if len(envelope) > MAX_BYTES:
        return Rejection(reason=f"it is larger than the {MAX_BYTES} bytes allowed")
    try:
        document = decode_document(verify(envelope, payload_type=PAYLOAD_TYPE, keys=keys))
    except (SignatureError, PolicyError, ValueError, RecursionError) as error:
        return Rejection(reason=one_line(str(error)))
    if (mismatch := _mismatch(document, recipient)) is not None:
        return Rejection(reason=mismatch, revision=document.revision)
    return document


def check_policy(
    envelope: bytes,
    keys: Sequence[PublicKey],
    recipient: Recipient,
    current: Mapping[PolicySlot, PolicyDocument],
) -> PolicyDocument | Unchanged | Rejection:
    """Return the document if the device accepts it, else why it changes nothing or why it is rejected.

    Args:
        envelope: the received message.
        keys: trusted public keys.
        recipient: this device.
        current: the accepted document of each slot that is not empty.

    """
    document = verify_policy(envelope, keys, recipient)
    if isinstance(document, Rejection):
        return document
    held, revision = current.get(slot_of(document)), document.revision
    current_revision = SHIPPED_REVISION if held is None else held.revision
    if revision < current_revision:
        reason = f"revision {revision} is lower than the current revision {current_revision}"
        return Rejection(reason=reason, revision=revision)
    if revision == current_revision:
        if held is not None and _without_rollout(held) == _without_rollout(document):
            return Unchanged(revision=revision, reason="this device has it already")
        reason = f"this device has revision {revision} with different content; publish this one under a higher revision"
        return Rejection(reason=reason, revision=revision)
    if not document.rollout.includes(recipient.device):
        reason = f"the rollout to {document.rollout.percent:g} % of the devices does not include this device"
        return Unchanged(revision=revision, reason=reason)
    return document


def _without_rollout(document: PolicyDocument) -> PolicyDocument:
    """Return the document without its rollout: the same revision is published again with a higher percentage."""
    return msgspec.structs.replace(document, rollout=Rollout())


def _mismatch(document: PolicyDocument, recipient: Recipient) -> str | None:
    """Return why a signed document is not for this device and bundle, or None."""
    scope = document.scope
    if scope is None:
        return "it names neither a cohort nor a device"
    for what in ("fleet", "device", "cohort"):
        required, own = getattr(scope, what), getattr(recipient, what)
        if required not in {None, own}:
            return f"it is for {what} '{required}', this {what} is '{own}'"
    if document.bundle != recipient.bundle:
        return f"it is for bundle {document.bundle[:12]}…, this device runs {recipient.bundle[:12]}…"
    try:
        document.policy.require_fits(recipient.exits, recipient.classes)
    except PolicyError as error:
        return str(error)
    return None
