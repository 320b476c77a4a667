"""The policy document: which policy holds for whom, since when, and what is known of its risk.

Devices take documents only inside a signed envelope (see `signing`); a bundle ships with one of revision 0.
"""

import hashlib
from typing import Annotated, Literal, get_args

import msgspec

from edgeexit.errors import PolicyError
from edgeexit.policies.beem import Beem
from edgeexit.policies.cats import Cats
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.eenet import Eenet
from edgeexit.policies.entropy import Entropy
from edgeexit.policies.margin import Margin
from edgeexit.policies.patience import Patience
from edgeexit.policies.pcee import Pcee
from edgeexit.policies.voting import Voting
from edgeexit.policies.ztw import Ztw

AnyPolicy = Confidence | Entropy | Margin | Patience | Voting | Beem | Pcee | Cats | Ztw | Eenet
"""The registry, the simplest first: a new kind is a new file and one more name here."""

KINDS: dict[str, type[AnyPolicy]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyPolicy)}
"""Name in documents and the CLI -> kind, the simplest first."""

PAYLOAD_TYPE = "application/vnd.edgeexit.policy+json"

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a policy's risk, from samples that did not choose it.

    With probability at least 1 - `delta` over those samples, the policy's expected loss is at most `risk`
    on inputs drawn like them.
    """

    loss: Literal["disagreement"] = "disagreement"
    """1 where the early answer is not the final exit's; to segment, the share of pixels where it is not."""
    method: str
    """The test that gave the bound."""
    samples: Annotated[int, msgspec.Meta(ge=1)]
    """Number of samples that certified it."""
    risk: Fraction
    """The stated bound on the expected loss."""
    delta: Fraction
    """Probability with which the statement may fail."""
    observed: Fraction
    """Mean loss on the certifying samples."""
    upper_bound: Fraction
    """By the test of `method`, at level 1 - delta, of this policy alone; the sequence of tests states `risk`."""
    exit_rates: tuple[Fraction, ...]
    """[K] share of the certifying samples that leave at each exit: the exit mix to expect."""


class Scope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a document is for: a cohort of a fleet, or one device (a pin). Exactly one of the two."""

    fleet: Name
    cohort: Name | None = None
    device: Name | None = None

    def __post_init__(self) -> None:
        """Refuse both or neither (ValueError)."""
        if (self.cohort is None) == (self.device is None):
            raise ValueError("scope names a cohort or a device: exactly one of the two")


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of a cohort that a document has reached; sticky per device."""

    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 100.0
    salt: str = ""

    def includes(self, device: str) -> bool:
        """Say whether `device` is among the first `percent` in the order that the salt draws."""
        digest = hashlib.sha256(f"{self.salt}/{device}".encode()).digest()
        return int.from_bytes(digest[:8], "big") * 100 < self.percent * 2**64


class PolicyDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy with its bundle, revision, scope, rollout and certificate."""

    bundle: Digest
    """Digest of the bundle that it was fitted for; a device refuses another's."""
    revision: Annotated[int, msgspec.Meta(ge=0)]
    """Strictly increasing per scope; 0 is the policy that ships in the bundle."""
    policy: AnyPolicy
    scope: Scope | None = None
    """null only for the document inside a bundle."""
    rollout: Rollout = Rollout()
    certificate: Certificate | None = None


_decoder = msgspec.json.Decoder(PolicyDocument)


def decode_document(content: bytes) -> PolicyDocument:
    """Read a policy document. Raises PolicyError that names the field."""
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        known = f"; there are {', '.join(KINDS)}" if "$.policy.kind" in str(error) else ""
        raise PolicyError(f"policy document: {error}{known}") from error


def encode_document(document: PolicyDocument) -> bytes:
    """Return the document's JSON, the same bytes for the same content."""
    return msgspec.json.encode(document, order="deterministic")
