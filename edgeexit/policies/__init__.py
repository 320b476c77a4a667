"""Exit policies: immutable parameters, and pure numpy functions that decide at which exit a sample exits.

Each kind of policy is one module of this package; `registry` lists them. Import a kind from its own module, e.g.
`from edgeexit.policies.confidence import Confidence`.
"""

from edgeexit.policies.base import Decision, Policy
from edgeexit.policies.document import (
    AuditRule,
    Certificate,
    LatencyBound,
    PolicyDocument,
    Rollout,
    Scope,
    decode_document,
    encode_document,
)
from edgeexit.policies.registry import KINDS, register_policy
from edgeexit.policies.simulation import Simulation, disagrees, exit_rates, exits_of, simulate, simulate_exits

__all__ = [
    "KINDS",
    "AuditRule",
    "Certificate",
    "Decision",
    "LatencyBound",
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
    "register_policy",
    "simulate",
    "simulate_exits",
]
