"""How deep each class goes: where its samples leave, and how right they are answered."""

import msgspec
import numpy as np

from edgeexit.fitting import ReadoutDataset
from edgeexit.fitting.outcome import PolicyOutcome

_ENDS = 15


class ClassDepth(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of one class."""

    index: int
    samples: int
    rates: tuple[float, ...]
    """[K] share that leaves at each exit."""
    accuracy: float
    """Share that is answered rightly; without labels, as the final exit does."""

    @property
    def mean_depth(self) -> float:
        """Mean exit, counted from 1."""
        return sum(k * rate for k, rate in enumerate(self.rates, start=1))


def class_depths(dataset: ReadoutDataset, outcome: PolicyOutcome) -> tuple[ClassDepth, ...]:
    """Return the classes that have samples, the shallowest first; a class is the label, or the final exit's answer."""
    truth = dataset.truth
    found = []
    for index in np.unique(truth):
        of_class = truth == index
        exits = outcome.exits[of_class]
        found.append(
            ClassDepth(
                index=int(index),
                samples=len(exits),
                rates=tuple(float(n) / len(exits) for n in np.bincount(exits, minlength=dataset.exits)),
                accuracy=1 - float(outcome.losses[of_class].mean()),
            )
        )
    return tuple(sorted(found, key=lambda depth: (depth.mean_depth, depth.index)))


def ends(depths: tuple[ClassDepth, ...]) -> tuple[tuple[ClassDepth, ...], tuple[ClassDepth, ...]]:
    """Return all classes and nothing, or of many the shallowest 15 and the deepest 15."""
    if len(depths) <= 2 * _ENDS:
        return depths, ()
    return depths[:_ENDS], depths[-_ENDS:]
