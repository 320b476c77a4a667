"""The number of classes that entropies are measured against."""

from edgeexit.errors import FittingError
from edgeexit.fitting.evidence import Evidence
from edgeexit.fitting.temperature import readings
from edgeexit.fitting.templates.options import TemplateOptions
from edgeexit.policies import Entropy


def entropy_templates(evidence: Evidence, options: TemplateOptions) -> tuple[Entropy, ...]:
    """Return the kind under fitted temperatures and as it is. Raises FittingError: readouts without probabilities."""
    classes = evidence.classes
    if classes is None:
        raise FittingError("the entropy policy needs the number of classes: give readouts with their probabilities")
    return tuple(
        Entropy(temperatures=read.temperatures, thresholds=(None,) * (read.exits - 1), classes=classes)
        for read in readings(evidence, fit=options.temperatures)
    )
