"""All ways of fitting that are compared: rivals by their papers' recipes, our fit of every kind, and `auto`."""

from functools import partial

from comparing import Fitter

from edgeexit.fitting import Budget, ReadoutDataset, choose_policy, fit_policy
from edgeexit.fitting.published import beem_policy, branchynet_policy, eenet_policy, msdnet_policy, pabee_policy
from edgeexit.policies import KINDS, Policy

AUTO = "auto"


def fit_ours(kind: str, dataset: ReadoutDataset, budget: float) -> Policy:
    """Return our fit of a kind."""
    return fit_policy(kind, dataset, Budget(cost=budget)).policy


def fit_auto(dataset: ReadoutDataset, budget: float) -> Policy:
    """Return what `--policy auto` takes."""
    return choose_policy(dataset, Budget(cost=budget)).fit.policy


RIVALS: dict[str, Fitter] = {
    "BranchyNet": branchynet_policy,
    "MSDNet": msdnet_policy,
    "PABEE": pabee_policy,
    "BEEM, the paper's rule": beem_policy,
    "EENet": eenet_policy,
}
OURS: dict[str, Fitter] = {**{kind: partial(fit_ours, kind) for kind in KINDS}, AUTO: fit_auto}
