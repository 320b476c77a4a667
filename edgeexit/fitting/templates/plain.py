"""Kinds that learn temperatures and no more: confidence, entropy, margin, patience, voting."""

from typing import Any

from edgeexit.fitting.evidence import Evidence
from edgeexit.policies import AnyPolicy


def plain_templates(kind: Any, evidence: Evidence) -> tuple[AnyPolicy, ...]:
    """Return the kind as it is."""
    return (kind(temperatures=evidence.temperatures, thresholds=(None,) * (evidence.exits - 1)),)
