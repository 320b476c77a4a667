"""The policy document: a policy, the bundle and the devices that it is for, and its certificate.

Devices accept documents only inside a signed envelope (see `signing`). A bundle ships with a document of revision 0.
"""

import hashlib
import re
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Union

import msgspec

from edgeexit.errors import PolicyError
from edgeexit.policies.base import Policy
from edgeexit.policies.registry import KINDS, unknown_kind

PAYLOAD_TYPE = "application/vnd.edgeexit.policy+json"

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
MAX_AUDIT_FRACTION: Final = 0.2
"""Default of `max_audit_fraction` of agents."""
MAX_REVISION: Final = 2**53
"""JSON readers that hold numbers as doubles, e.g. JavaScript, give another number above this limit."""
Revision = Annotated[int, msgspec.Meta(ge=0, le=MAX_REVISION)]
Loss = Literal["disagreement", "regret"]
"""What a certificate bounds, see `Certificate.loss`."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statistical bound on the risk of a policy, from samples that did not choose its parameters.

    These samples only select one of a sequence of thresholds, by tests that allow for the selection (see
    `edgeexit.fitting`). With probability at least 1 - `delta` over these samples, the expected loss of the policy is at
    most `risk` on inputs from the same distribution.
    """

    loss: Loss = "disagreement"
    """The loss of a sample. disagreement: 1 if the prediction differs from the final exit's, else 0; segmentation: the
    fraction of pixels that differ. regret: 1 if it is wrong where the final exit's is right, else 0."""
    method: str
    """The statistical test that gave the bound."""
    samples: Annotated[int, msgspec.Meta(ge=1)]
    """Number of certifying samples."""
    risk: Fraction
    """The certified upper bound on the expected loss."""
    delta: Fraction
    """Maximum probability that the bound does not hold."""
    observed: Fraction
    """Mean loss on the certifying samples."""
    upper_bound: Fraction
    """Upper bound at level 1 - `delta` of the expected loss of this policy, as if it had been tested alone.

    Only `risk` is certified, because several policies were tested."""
    exit_rates: tuple[Fraction, ...]
    """[K] fraction of the certifying samples that exit at each exit: the exit rates to expect."""


class LatencyBound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bound on the latency of a policy: at least the fraction `quantile` of the samples take at most `ms`."""

    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    ms: Annotated[float, msgspec.Meta(gt=0)]
    """End-to-end latency of a sample on the device."""


class Scope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The devices that a document is for: either a cohort of a fleet, or one device."""

    fleet: Name
    cohort: Name | None = None
    device: Name | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless exactly one of `cohort` and `device` is set."""
        if (self.cohort is None) == (self.device is None):
            raise ValueError(f"scope has cohort {self.cohort!r} and device {self.device!r}; set exactly one of the two")


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a cohort that accepts a document. A device that is included stays included as `percent` grows."""

    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 100.0
    """Percentage of the devices of the cohort."""
    salt: str = ""
    """Determines, with the name of a device, which devices come first."""

    def includes(self, device: str) -> bool:
        """Return True if `device` is among the first `percent` of devices, in the order given by a hash with `salt`."""
        digest = hashlib.sha256(f"{self.salt}/{device}".encode()).digest()
        return int.from_bytes(digest[:8], "big") * 100 < self.percent * 2**64


class AuditRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many samples a device audits while a document is in force."""

    fraction: Fraction
    """Fraction of the samples. A device audits at least its own `audit_fraction`, at most its `max_audit_fraction`, and
    nothing if its `audit_fraction` is 0."""

    def fraction_for(self, *, own: float, limit: float) -> float:
        """Return the fraction on a device with this `audit_fraction` and this `max_audit_fraction`."""
        return max(own, min(self.fraction, limit)) if own else 0.0


class PolicyDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy with its bundle, revision, scope, rollout and certificate. `decode_document` reads it from JSON."""

    bundle: Digest
    """Digest of the bundle that the policy was fitted for; devices with another bundle reject the document."""
    revision: Revision
    """Strictly increasing per scope; 0 for the policy that ships in the bundle."""
    policy: Policy
    """A policy of any registered kind."""
    scope: Scope | None = None
    """None (null in JSON) only for the document inside a bundle."""
    rollout: Rollout = Rollout()
    certificate: Certificate | None = None
    """None if the policy was not fitted for a risk."""
    max_latency: LatencyBound | None = None
    """A device on which the policy breaks this bound returns to its last good policy; None: no bound."""
    audit: AuditRule | None = None
    """None: each device audits its own `audit_fraction`. It is not encoded then, because agents that do not know this
    field reject every document that has it. Ignored in a bundle."""


_UNKNOWN_KIND = re.compile(r"Invalid value '(.*)' - at `\$\.policy\.kind`", re.DOTALL)
"""Matches the error of msgspec about a kind that is not in the union."""


def decode_document(content: bytes) -> PolicyDocument:
    """Decode a policy document. Raises PolicyError that names the field, or the kind if it is not registered."""
    try:
        decoded = _decoder(tuple(KINDS.values())).decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        unknown = _UNKNOWN_KIND.match(str(error))
        raise PolicyError(f"policy document: {unknown_kind(unknown[1]) if unknown else error}") from error
    return PolicyDocument(**msgspec.structs.asdict(decoded))


def encode_document(document: PolicyDocument) -> bytes:
    """Return the document as JSON, the same bytes for the same content."""
    content = msgspec.to_builtins(document, order="deterministic")
    if document.audit is None:
        del content["audit"]
    return msgspec.json.encode(content)


@lru_cache(maxsize=1)
def _decoder(kinds: tuple[type[Policy], ...]) -> msgspec.json.Decoder[PolicyDocument]:
    """Return a decoder of documents that hold a policy of one of `kinds`.

    msgspec decodes a tagged union of known classes. The union is built here, because kinds register at run time.
    """
    policy: Any = Union[kinds]  # noqa: UP007 - built from a tuple
    document = msgspec.defstruct(
        "PolicyDocument",
        [("policy", policy)],
        bases=(PolicyDocument,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(document)
