"""EENet's scoring function: the identity, which is confidence, and a learned one."""

from edgeexit.fitting.eenet.scoring import examples_of, identity
from edgeexit.fitting.eenet.training import learn, unfitted
from edgeexit.fitting.kinds.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.fitting.temperature import readings
from edgeexit.policies.eenet import Eenet


def eenet_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Eenet, ...]:
    """Return EENet as it starts and as it is learned for a budget, each under fitted temperatures and as it is.

    The starts come first. Their scores are confidence's, so that EENet is never worse than confidence on the samples
    that choose, and a learned function has to do better. Raises FittingError for readouts without probabilities.
    """
    starts, learned = [], []
    for read in readings(dataset, fit=options.temperatures):
        examples = examples_of(read)
        starts.append(unfitted(read, identity(read.exits, examples.classes)))
        learned.append(unfitted(read, learn(examples, read.costs, options.budget, seed=options.seed).weights))
    return (*starts, *learned)
