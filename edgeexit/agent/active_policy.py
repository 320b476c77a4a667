"""Which policy is in force: a device's pin before its cohort's, before the one that shipped with the bundle."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from edgeexit.agent.policy_store import (
    SHIPPED_REVISION,
    SLOTS,
    PolicyStore,
    Recipient,
    Unchanged,
    check_policy,
    one_line,
    slot_of,
)
from edgeexit.bundle import Bundle
from edgeexit.errors import EdgeExitError
from edgeexit.policies import AnyPolicy, PolicyDocument
from edgeexit.policies.unreachable import unreachable_exits_warning
from edgeexit.runtime import full_model_policy
from edgeexit.signing import PublicKey
from edgeexit.wire import Rejection

_log = logging.getLogger(__name__)


class ActivePolicy(NamedTuple):
    """The policy in force and its revision; changed together."""

    revision: int
    policy: AnyPolicy


class PolicySelector:
    """Holds what a device has taken, and takes what comes in; `receive` is called by one thread.

    Attributes:
        active: what the next inference uses.
        rejected: the last policy that was refused, until a good one comes.

    """

    def __init__(self, bundle: Bundle, store: PolicyStore, recipient: Recipient, keys: Sequence[PublicKey]) -> None:
        self._exits = bundle.manifest.exits
        self._store = store
        self._recipient = recipient
        self._keys = keys
        self._shipped = _shipped_policy(bundle)
        self._full_model = full_model_policy(len(bundle.manifest.stages))
        self._documents = store.load(keys)
        self.active = self._choose()
        self.rejected: Rejection | None = None
        if self.active.policy is self._full_model:
            _log.warning("the bundle has no policy: every sample runs to full depth; see `edgeexit fit`")
        self._warn_of_unreachable_exits()

    @property
    def in_words(self) -> str:
        """Revision and kind of the policy in force, for people."""
        revision, policy = self.active
        return f"revision {revision} ({'no policy' if policy is self._full_model else policy.kind})"

    def receive(self, envelope: bytes) -> bool:
        """Take a signed policy, store it and put it in force, or refuse it; return whether there is news to tell."""
        checked = check_policy(envelope, self._keys, self._recipient, self._documents)
        if isinstance(checked, Unchanged):
            _log.info("policy revision %d changes nothing: %s", checked.revision, checked.reason)
            was_rejected, self.rejected = self.rejected, None
            return was_rejected is not None
        if isinstance(checked, PolicyDocument):
            try:
                self._store.save(slot_of(checked), envelope)
            except OSError as error:
                reason = one_line(f"it cannot be stored: {error.strerror or error}")
                checked = Rejection(reason=reason, revision=checked.revision)
        if isinstance(checked, Rejection):
            revision = "" if checked.revision is None else f" revision {checked.revision}"
            _log.warning("policy%s rejected: %s", revision, checked.reason)
            self.rejected = checked
            return True
        self._documents[slot_of(checked)] = checked
        self.active = self._choose()
        self._warn_of_unreachable_exits()
        self.rejected = None
        _log.info(
            "policy accepted: revision %d (%s) for this %s; %s is in force",
            checked.revision, checked.policy.kind, slot_of(checked), self.in_words,
        )  # fmt: skip
        return True

    def _choose(self) -> ActivePolicy:
        for slot in SLOTS:
            if (document := self._documents.get(slot)) is not None:
                return ActivePolicy(document.revision, document.policy)
        return ActivePolicy(SHIPPED_REVISION, self._full_model if self._shipped is None else self._shipped)

    def _warn_of_unreachable_exits(self) -> None:
        if (warning := unreachable_exits_warning(self.active.policy, self._exits)) is not None:
            _log.warning("%s", warning)


def _shipped_policy(bundle: Bundle) -> AnyPolicy | None:
    """Return the bundle's own policy; None where there is none that can be used."""
    try:
        document = bundle.policy()
    except EdgeExitError as error:
        _log.warning("the bundle's policy is not used: %s", error)
        return None
    return None if document is None else document.policy
