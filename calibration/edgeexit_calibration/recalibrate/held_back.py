"""Which bound of a user keeps a certified, clearly cheaper policy from being put in force. Pure functions."""

from typing import Literal

from edgeexit_calibration.recalibrate.audits import Audits
from edgeexit_calibration.recalibrate.chosen_point import choose_point
from edgeexit_calibration.recalibrate.guarantee import Guarantee
from edgeexit_calibration.recalibrate.guarantee_rules import DEFAULT_MIN_GAIN, GuaranteeRules

BoundName = Literal["frozen", "min_final_exits", "min_gain", "max_changes_per_day"]


def held_back_by(state: Guarantee, rules: GuaranteeRules, audits: Audits, *, changes: int) -> BoundName | None:
    """Return the bound that holds the policy back, or None if none does.

    Args:
        state: the state of the guarantee.
        rules: with the bounds.
        audits: the newest ones of the epoch, on which costs are compared.
        changes: number of changes in the last day that count.

    """
    usual_gain = min(DEFAULT_MIN_GAIN, rules.min_gain)
    if not len(audits.ids) or not _is_possible(state, rules, audits, usual_gain, 0.0):
        return None
    if rules.frozen:
        return "frozen"
    if not _is_possible(state, rules, audits, usual_gain, rules.min_final_exits):
        return "min_final_exits"
    if not _is_possible(state, rules, audits, rules.min_gain, rules.min_final_exits):
        return "min_gain"
    return "max_changes_per_day" if changes >= rules.max_changes_per_day else None


def _is_possible(
    state: Guarantee, rules: GuaranteeRules, audits: Audits, min_gain: float, min_final_exits: float
) -> bool:
    """Return True if a certified point would be put in force under these bounds."""
    chosen = choose_point(
        state.policy,
        state.paths,
        audits,
        costs=rules.costs,
        min_gain=min_gain,
        loss=rules.loss,
        budget=rules.budget,
        min_final_exits=min_final_exits,
    )
    return chosen is not None
