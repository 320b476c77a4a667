"""What a kind of policy declares so that it can be fitted, offered by the command line, and documented."""

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from edgeexit.fitting.options import CandidateOptions, FitOptions
from edgeexit.fitting.readout_dataset import ReadoutDataset
from edgeexit.policies import Policy

CandidateMaker = Callable[[ReadoutDataset, CandidateOptions], tuple[Policy, ...]]
"""Returns at least one policy without thresholds (all None) for a dataset. `make_candidates` states the contract."""

OptionCheck = Callable[[ReadoutDataset, FitOptions], None]
"""Raises FittingError for options that the kind cannot use with a dataset."""


class PublishedMethod(msgspec.Struct, frozen=True, kw_only=True):
    """The method of a paper that chooses the thresholds of this kind, for comparisons in benchmarks."""

    name: str
    """As benchmarks print it."""
    parameter: Literal["budget", "accuracy", "disagreement"]
    """What the number that `fit` takes means: a mean cost in the unit of the costs, or a fraction of the samples."""
    fit: Callable[[ReadoutDataset, float], Policy]


class ThresholdRule(msgspec.Struct, frozen=True, kw_only=True):
    """A way to choose the thresholds of this kind without a goal; `edgeexit fit --rule NAME` runs it."""

    summary: str
    """One phrase for help texts."""
    fit: Callable[[ReadoutDataset, FitOptions], Policy]


def _accept(dataset: ReadoutDataset, options: FitOptions) -> None:
    """Accept all options."""


class FittingKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of policy: how it is fitted, and what help texts, documentation and benchmarks state about it."""

    policy: type[Policy]
    summary: str
    """The score at exit k, as one phrase in Markdown."""
    learns: tuple[str, ...] = ()
    """What is fitted besides the thresholds, as phrases in Markdown. `temperatures` stands for softmax temperatures."""
    source: str = ""
    """The paper that the kind comes from."""
    make_candidates: CandidateMaker
    learns_for_budget: bool = False
    """Whether the candidates depend on the mean cost that they are made for."""
    weights: tuple[str, ...] = ()
    """Named choices of the weights of the exits (`FitOptions.weights`), the default first. Empty: no weights."""
    require_options: OptionCheck = _accept
    rules: Mapping[str, ThresholdRule] = msgspec.field(default_factory=dict)
    """Name -> rule."""
    published: PublishedMethod | None = None

    @property
    def name(self) -> str:
        """Name of the kind in documents, on the command line and in the registry."""
        return str(self.policy.__struct_config__.tag)

    @property
    def refits_from_audits(self) -> bool:
        """Whether audits hold everything that the kind reads, so that the calibrator can refit it.

        Audits hold the four columns of a readout, without the probabilities of all classes.
        """
        return not self.policy.reads_probabilities
