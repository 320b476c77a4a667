"""Decides whether a received policy is accepted, changes nothing, or is rejected. No I/O."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from edgeexit.errors import PolicyError, SignatureError
from edgeexit.key_set import TrustedKeys
from edgeexit.log_text import one_line
from edgeexit.policies import PolicyDocument, Rollout, decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.wire import MAX_BYTES, Rejection

PolicySlot = Literal["device", "cohort"]
POLICY_SLOTS: Final[tuple[PolicySlot, ...]] = ("device", "cohort")
"""One slot per scope, each for one policy. The first slot that is not empty holds the active policy: a policy for this
device overrides the policy of its cohort."""

SHIPPED_REVISION: Final = 0
"""Revision of the policy that ships with the bundle; an empty slot counts as this revision."""


class Accepted(NamedTuple):
    """What a slot has accepted so far."""

    revision: int = SHIPPED_REVISION
    """The highest accepted revision."""
    document: PolicyDocument | None = None
    """The document of this revision; None if its file is damaged, or its keys may not sign any more."""
    reverted: bool = False
    """True if the device has reverted this revision, so that it is never applied again."""


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

    slot: PolicySlot
    revision: int
    reason: str
    is_held: bool = False
    """True if the device has this document, possibly in an envelope with other signatures or for a larger rollout."""


def slot_of(document: PolicyDocument) -> PolicySlot:
    """Return the slot of a document that has a scope."""
    return "device" if document.scope is not None and document.scope.device is not None else "cohort"


def verify_policy(envelope: bytes, keys: TrustedKeys, recipient: Recipient) -> PolicyDocument | Rejection:
    """Return the document in a signed envelope if enough keys for policies signed it for this device and bundle."""
    if not keys.keys("policy"):
        return Rejection(
            reason="no key may sign policies here; add the calibrator's public key to policy_keys or trusted_keys"
        )
    if len(envelope) > MAX_BYTES:
        return Rejection(reason=f"it is larger than the {MAX_BYTES} bytes allowed")
    try:
        document = decode_document(keys.verify(envelope, payload_type=PAYLOAD_TYPE, role="policy"))
    except (SignatureError, PolicyError, ValueError, RecursionError) as error:
        return Rejection(reason=one_line(str(error)))
    if (mismatch := _mismatch(document, recipient)) is not None:
        return Rejection(reason=one_line(mismatch), revision=document.revision)
    return document


def check_policy(
    envelope: bytes,
    keys: TrustedKeys,
    recipient: Recipient,
    accepted: Mapping[PolicySlot, Accepted],
) -> PolicyDocument | Unchanged | Rejection:
    """Return the document if the device accepts it, else why it changes nothing or why it is rejected.

    A document with the highest accepted revision is accepted again if the device does not have it any more.

    Args:
        envelope: the received message.
        keys: the keys that are trusted now.
        recipient: this device.
        accepted: what each slot has accepted; an empty slot may be missing.

    """
    document = verify_policy(envelope, keys, recipient)
    return document if isinstance(document, Rejection) else decide_on(document, recipient.device, accepted)


def decide_on(
    document: PolicyDocument, device: str, accepted: Mapping[PolicySlot, Accepted]
) -> PolicyDocument | Unchanged | Rejection:
    """Return the same as `check_policy` for a document that `verify_policy` has verified for `device`."""
    slot, revision = slot_of(document), document.revision
    held = accepted.get(slot, Accepted())
    if revision <= held.revision and (result := _not_higher(document, held)) is not None:
        return result
    if not document.rollout.includes(device):
        reason = f"the rollout to {document.rollout.percent:g} % of the devices does not include this device"
        return Unchanged(slot=slot, revision=revision, reason=reason)
    return document


def _not_higher(document: PolicyDocument, held: Accepted) -> Unchanged | Rejection | None:
    """Return the result for a revision that is not higher than the accepted one; None if the device needs it again."""
    revision = document.revision
    if revision < held.revision:
        reason = f"revision {revision} is lower than the current revision {held.revision}"
        return Rejection(reason=reason, revision=revision)
    if held.reverted:
        reason = "this device has reverted it; publish another policy under a higher revision"
        return Unchanged(slot=slot_of(document), revision=revision, reason=reason)
    if held.document is not None and _without_rollout(held.document) == _without_rollout(document):
        return Unchanged(slot=slot_of(document), revision=revision, reason="this device has it already", is_held=True)
    if held.document is not None or revision == SHIPPED_REVISION:
        reason = f"this device has revision {revision} with different content; publish this one under a higher revision"
        return Rejection(reason=reason, revision=revision)
    return None


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
