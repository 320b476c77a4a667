"""The number of classes that entropies are measured against."""

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.temperature import readings
from edgeexit.policies.entropy import Entropy


def entropy_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Entropy, ...]:
    """Return the kind under fitted temperatures and as it is. Raises FittingError: readouts without probabilities."""
    classes = dataset.classes
    if classes is None:
        raise FittingError("the entropy policy needs the number of classes: give readouts with their probabilities")
    return tuple(
        Entropy(temperatures=read.temperatures, thresholds=(None,) * (read.exits - 1), classes=classes)
        for read in readings(dataset, fit=options.temperatures)
    )
