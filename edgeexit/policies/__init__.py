"""Exit policies: readouts so far -> leave or go on. Pure numpy; their numbers are documents, never code."""

from edgeexit.policies.base import Decision, Policy
from edgeexit.policies.beem import Beem
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
from edgeexit.policies.simulate import Simulation, disagrees, exit_rates, exits_of, simulate, simulate_exits

__all__ = [
    "KINDS",
    "AnyPolicy",
    "Beem",
    "Certificate",
    "Confidence",
    "Decision",
    "Policy",
    "PolicyDocument",
    "Rollout",
    "Scope",
    "Simulation",
    "decode_document",
    "disagrees",
    "encode_document",
    "exit_rates",
    "exits_of",
    "simulate",
    "simulate_exits",
]
