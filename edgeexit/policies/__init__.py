"""Exit policies: readouts so far -> leave or go on. Pure numpy; their numbers are documents, never code."""

from edgeexit.policies.base import Decision, Policy
from edgeexit.policies.beem import Beem
from edgeexit.policies.cats import Cats
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import (
    KINDS,
    AnyPolicy,
    Certificate,
    PolicyDocument,
    Rollout,
    Scope,
    decode_document,
    encode_document,
)
from edgeexit.policies.eenet import Eenet
from edgeexit.policies.entropy import Entropy
from edgeexit.policies.margin import Margin
from edgeexit.policies.patience import Patience
from edgeexit.policies.pcee import Pcee
from edgeexit.policies.simulate import Simulation, disagrees, exit_rates, exits_of, simulate, simulate_exits
from edgeexit.policies.voting import Voting
from edgeexit.policies.ztw import Ztw

__all__ = [
    "KINDS",
    "AnyPolicy",
    "Beem",
    "Cats",
    "Certificate",
    "Confidence",
    "Decision",
    "Eenet",
    "Entropy",
    "Margin",
    "Patience",
    "Pcee",
    "Policy",
    "PolicyDocument",
    "Rollout",
    "Scope",
    "Simulation",
    "Voting",
    "Ztw",
    "decode_document",
    "disagrees",
    "encode_document",
    "exit_rates",
    "exits_of",
    "simulate",
    "simulate_exits",
]
