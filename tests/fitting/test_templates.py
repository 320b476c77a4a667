"""What kinds take from the data besides thresholds."""

from edgeexit.fitting.templates import TemplateOptions, make_templates
from tests.fitting.populations import population


def test_beem_weights_are_accuracies():
    weights = make_templates("beem", population(500, seed=3, labels=False), TemplateOptions(budget=2.0))[0].weights
    assert weights[-1] == 1.0
    assert list(weights) == sorted(weights)
