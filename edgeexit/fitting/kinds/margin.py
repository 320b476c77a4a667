"""How `margin` is fitted: it learns temperatures only."""

from edgeexit.fitting.kinds.kind import FittingKind
from edgeexit.fitting.kinds.unfitted import unfitted_variants
from edgeexit.fitting.options import CandidateOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies.margin import Margin


def margin_candidates(dataset: ReadoutDataset, options: CandidateOptions) -> tuple[Margin, ...]:
    """Return margin under fitted temperatures and under base temperatures."""
    return unfitted_variants(Margin, dataset, options)


KIND = FittingKind(
    policy=Margin,
    summary="top-1 minus top-2 probability",
    learns=("temperatures",),
    source="best versus second best (Joshi et al., CVPR 2009)",
    make_candidates=margin_candidates,
)
