"""What a registration takes from a bundle, checked: its policy and the costs of its exits."""

from itertools import pairwise
from typing import Final, NamedTuple

from edgeexit.bundle import Bundle, Costs
from edgeexit.errors import BundleError
from edgeexit.policies import PolicyDocument, encode_document
from edgeexit.policies.document import Loss
from edgeexit.wire import MAX_BYTES

_ENVELOPE_BYTES: Final = 1024
"""Bytes of a message for the signature, and for the scope and the rollout of a document."""
_MAX_POLICY_BYTES: Final = (MAX_BYTES - _ENVELOPE_BYTES) // 4 * 3
"""Maximum size of a policy document in a message, where base64 writes 3 bytes as 4."""


class RegistrableBundle(NamedTuple):
    """The policy and the costs of a bundle that can be registered."""

    document: PolicyDocument
    content: str
    """The document as JSON."""
    costs: Costs
    """Increasing, one per exit."""


def registrable(bundle: Bundle, *, loss: Loss | None, costs: Costs | None) -> RegistrableBundle:
    """Return the policy of a bundle, and `costs` or else the costs of the bundle.

    Raises BundleError for a bundle without a policy, with one that does not fit into a message, with costs that do not
    increase, or whose audits do not have the labels that the loss needs.
    """
    document = bundle.policy()
    if document is None:
        raise BundleError(f"bundle '{bundle.path}' has no policy; run `edgeexit fit` first")
    if bundle.manifest.has_maps and loss not in (None, "disagreement"):
        raise BundleError(
            f"bundle '{bundle.path}' is a {bundle.manifest.task} model, whose audits contain no labels, which the loss "
            f"'{loss}' needs; register it with the loss 'disagreement'"
        )
    unit, cumulative, rejected = bundle.costs() if costs is None else costs
    if len(cumulative) != len(bundle.manifest.exits) or not all(a < b for a, b in pairwise((0.0, *cumulative))):
        raise BundleError(
            f"bundle '{bundle.path}': the costs of the exits, {cumulative} {unit}, do not increase; run `edgeexit "
            "profile`"
        )
    content = encode_document(document).decode()
    if len(content) > _MAX_POLICY_BYTES:
        raise BundleError(
            f"bundle '{bundle.path}': its policy '{document.policy.kind}' has {len(content)} bytes, but a message to a "
            f"device holds at most {_MAX_POLICY_BYTES}; fit a policy without weights per class (`edgeexit fit "
            "--policy`), or ship this one in the bundle, without registration"
        )
    return RegistrableBundle(document, content, Costs(unit, cumulative, rejected))
