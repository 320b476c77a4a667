"""Selects the active policy: the device's own policy, else its cohort's, else the one that ships with the bundle."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from edgeexit.agent.policy_check import (
    POLICY_SLOTS,
    SHIPPED_REVISION,
    Recipient,
    Unchanged,
    check_policy,
    slot_of,
)
from edgeexit.agent.policy_store import PolicyStore
from edgeexit.bundle import Bundle
from edgeexit.errors import EdgeExitError
from edgeexit.log_text import one_line
from edgeexit.policies import Policy, PolicyDocument
from edgeexit.policies.unreachable import unreachable_exits_warning
from edgeexit.runtime import full_model_policy
from edgeexit.signing import PublicKey
from edgeexit.wire import Rejection

_log = logging.getLogger(__name__)


class ActivePolicy(NamedTuple):
    """The active policy and its revision; both are replaced together."""

    revision: int
    policy: Policy


class PolicySelector:
    """Holds the accepted policies and selects the active one. Only one thread may call `receive`.

    Attributes:
        active: the policy of the next inference.
        rejected: the last rejected policy; None if a valid policy arrived after it.

    """

    def __init__(self, bundle: Bundle, store: PolicyStore, recipient: Recipient, keys: Sequence[PublicKey]) -> None:
        self._exits = bundle.manifest.exits
        self._store = store
        self._recipient = recipient
        self._keys = keys
        self._shipped = _shipped_policy(bundle)
        self._full_model = full_model_policy(len(bundle.manifest.stages))
        self._documents = store.load(keys)
        self.active = self._select()
        self.rejected: Rejection | None = None
        if self.active.policy is self._full_model:
            _log.warning("the bundle has no policy: every sample runs to full depth; see `edgeexit fit`")
        self._warn_about_unreachable_exits()

    @property
    def description(self) -> str:
        """Revision and kind of the active policy, for logs: `revision 3 (confidence)`."""
        revision, policy = self.active
        return f"revision {revision} ({'no policy' if policy is self._full_model else policy.kind})"

    def receive(self, envelope: bytes) -> bool:
        """Check a signed policy; store and activate it if it is accepted. Return True if `up/state` must be sent."""
        result = check_policy(envelope, self._keys, self._recipient, self._documents)
        if isinstance(result, Unchanged):
            _log.info("policy revision %d changes nothing: %s", result.revision, result.reason)
            was_rejected, self.rejected = self.rejected, None
            return was_rejected is not None
        if isinstance(result, PolicyDocument):
            try:
                self._store.save(slot_of(result), envelope)
            except OSError as error:
                reason = one_line(f"it cannot be stored: {error.strerror or error}")
                result = Rejection(reason=reason, revision=result.revision)
        if isinstance(result, Rejection):
            revision = "" if result.revision is None else f" revision {result.revision}"
            _log.warning("policy%s rejected: %s", revision, result.reason)
            self.rejected = result
            return True
        self._documents[slot_of(result)] = result
        self.active = self._select()
        self._warn_about_unreachable_exits()
        self.rejected = None
        _log.info(
            "policy accepted: revision %d (%s) for this %s; the active policy is %s",
            result.revision, result.policy.kind, slot_of(result), self.description,
        )  # fmt: skip
        return True

    def _select(self) -> ActivePolicy:
        for slot in POLICY_SLOTS:
            if (document := self._documents.get(slot)) is not None:
                return ActivePolicy(document.revision, document.policy)
        return ActivePolicy(SHIPPED_REVISION, self._full_model if self._shipped is None else self._shipped)

    def _warn_about_unreachable_exits(self) -> None:
        if (warning := unreachable_exits_warning(self.active.policy, self._exits)) is not None:
            _log.warning("%s", warning)


def _shipped_policy(bundle: Bundle) -> Policy | None:
    """Return the policy in the bundle, or None if there is none or it is not usable."""
    try:
        document = bundle.policy()
    except EdgeExitError as error:
        _log.warning("the bundle's policy is not used: %s", error)
        return None
    return None if document is None else document.policy
