"""What each kind of policy takes from the data besides its thresholds, which nothing leaves at yet. One file a kind."""

from collections.abc import Callable

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.beem import beem_candidates
from edgeexit.fitting.kinds.cats import cats_candidates
from edgeexit.fitting.kinds.eenet import eenet_candidates
from edgeexit.fitting.kinds.entropy import entropy_candidates
from edgeexit.fitting.kinds.options import CandidateOptions
from edgeexit.fitting.kinds.pcee import pcee_candidates
from edgeexit.fitting.kinds.plain import plain_candidates
from edgeexit.fitting.kinds.ztw import ztw_candidates
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies import KINDS, Policy

__all__ = ["CandidateOptions", "make_candidates"]

Maker = Callable[[ReadoutDataset, CandidateOptions], tuple[Policy, ...]]

_MAKERS: dict[str, Maker] = {
    "entropy": entropy_candidates,
    "beem": beem_candidates,
    "pcee": pcee_candidates,
    "cats": cats_candidates,
    "ztw": ztw_candidates,
    "eenet": eenet_candidates,
}
"""The registry of kinds that take more than temperatures."""


def make_candidates(kind: str, dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Policy, ...]:
    """Return candidates for an unfitted policy of `kind`, at least one, all thresholds None.

    A fit takes the candidate whose thresholds do best on the samples that choose, the first where several do. Every
    candidate says under which temperatures it reads; `dataset.at(...)` gives the readouts. Raises FittingError for a
    kind that is not known, or evidence that it cannot learn from.
    """
    if kind not in KINDS:
        raise FittingError(f"policy '{kind}' is unknown; there are {', '.join(KINDS)}")
    if kind in _MAKERS:
        return _MAKERS[kind](dataset, options)
    return plain_candidates(KINDS[kind], dataset, options)
