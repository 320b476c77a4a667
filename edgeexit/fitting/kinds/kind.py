"""The declaration of a kind of policy: how it is fitted, and its entry in help texts, docs and benchmarks."""

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
    """Name in the tables of benchmarks."""
    parameter: Literal["budget", "accuracy", "disagreement"]
    """Meaning of the second argument of `fit`: a mean cost in the unit of the costs, or a fraction of the samples."""
    fit: Callable[[ReadoutDataset, float], Policy]
    """Returns the policy that the method chooses. Raises FittingError if it has none for this number."""


class ThresholdRule(msgspec.Struct, frozen=True, kw_only=True):
    """A way to choose the thresholds of this kind without a goal; `edgeexit fit --rule NAME` runs it."""

    summary: str
    """One phrase for help texts."""
    fit: Callable[[ReadoutDataset, FitOptions], Policy]
    """Returns the policy with thresholds. Raises FittingError for options that it cannot use."""


def _accept(dataset: ReadoutDataset, options: FitOptions) -> None:
    """Accept all options."""


class FittingKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of policy: how it is fitted, and the texts about it in help, documentation and benchmarks."""

    policy: type[Policy]
    """The class of the policies of this kind."""
    summary: str
    """The score at exit k, as one phrase in Markdown."""
    learns: tuple[str, ...] = ()
    """What is fitted besides the thresholds, as phrases in Markdown. `temperatures` stands for softmax temperatures."""
    source: str = ""
    """The paper that the kind comes from."""
    make_candidates: CandidateMaker
    """Learns everything but the thresholds."""
    learns_for_budget: bool = False
    """True if the candidates depend on `CandidateOptions.budget`."""
    weights: tuple[str, ...] = ()
    """Named choices of the weights of the exits (`FitOptions.weights`), the default first. Empty: no weights."""
    require_options: OptionCheck = _accept
    """Checks the options before a comparison of kinds starts."""
    rules: Mapping[str, ThresholdRule] = msgspec.field(default_factory=dict)
    """Name on the command line -> rule."""
    published: PublishedMethod | None = None
    """The method of the paper, for benchmarks; None if there is none."""

    @property
    def name(self) -> str:
        """Name of the kind in documents, on the command line and in the registry."""
        return str(self.policy.__struct_config__.tag)
