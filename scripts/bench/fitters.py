"""The fitters that are compared: the published methods, our fit of every kind of policy, and `auto`."""

from functools import partial

from comparing import Fitter

from edgeexit.fitting import FITTING_KINDS, Budget, ReadoutDataset, choose_policy, fit_policy
from edgeexit.policies import Policy

AUTO = "auto"


def fit_ours(kind: str, dataset: ReadoutDataset, budget: float) -> Policy:
    """Return our fit of a kind of policy. Raises FittingError if it cannot reach the budget."""
    return fit_policy(kind, dataset, Budget(cost=budget)).policy


def fit_auto(dataset: ReadoutDataset, budget: float) -> Policy:
    """Return the policy that `--policy auto` chooses."""
    return choose_policy(dataset, Budget(cost=budget)).fit.policy


PUBLISHED: dict[str, Fitter] = {
    kind.published.name: kind.published.fit
    for kind in FITTING_KINDS.values()
    if kind.published is not None and kind.published.parameter == "budget"
}
OURS: dict[str, Fitter] = {**{kind: partial(fit_ours, kind) for kind in FITTING_KINDS}, AUTO: fit_auto}
