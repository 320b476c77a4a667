"""From readouts, labels and stage costs to a policy document with a certificate."""

from edgeexit.fitting.max_risk import Fit, fit_kind, fit_max_risk, samples_needed
from edgeexit.fitting.risk import lower_bound, upper_bound
from edgeexit.fitting.templates import make_template

__all__ = ["Fit", "fit_kind", "fit_max_risk", "lower_bound", "make_template", "samples_needed", "upper_bound"]
