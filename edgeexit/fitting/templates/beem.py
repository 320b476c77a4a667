"""BEEM's weights: an exit's accuracy (BEEM-A), its depth (BEEM-C), or one's own."""

import numpy as np

from edgeexit.fitting.evidence import Evidence
from edgeexit.fitting.templates.options import TemplateOptions
from edgeexit.policies import Beem
from edgeexit.policies.readout import TOP1


def beem_templates(evidence: Evidence, options: TemplateOptions) -> tuple[Beem, ...]:  # noqa: ARG001
    """Return BEEM-A; without labels the final exit's answer stands in for the truth."""
    accuracy = (evidence.readouts[:, :, TOP1] == evidence.truth[:, None]).mean(axis=0)
    # An exit that is never right still needs a weight above 0.
    weights = tuple(round(float(value), 6) for value in np.maximum(accuracy, 1e-3))
    return (Beem(temperatures=evidence.temperatures, thresholds=(None,) * (evidence.exits - 1), weights=weights),)
