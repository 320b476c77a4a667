"""The guarantee of a cohort: which policy is in force, and what the audits say about it and about bolder ones.

A state machine without I/O. An epoch is a time in which the data are taken to be the same. In it, paths of nested
thresholds are tested on the audits that arrive after they were chosen (see `edgeexit.fitting.path_test`): the first one
when the epoch begins, further ones, from more audits, as their number grows. The cheapest certified point of all paths
is put in force if it is clearly cheaper. The losses of the policy in force are monitored (`cohort_monitor`); an alarm
ends the epoch. Then full depth is put in force at once, and the next epoch begins: the audits since the estimated
change choose a path, and those after the alarm test it, and the path of the policy that was in force.

The promise: any policy that is in force at any time from the alarm of one change of the data to the next change has a
risk of at most the registered one, except with probability `delta` for all policies of that time together. It rests on
these assumptions:

- Between two changes, the risk of every policy is the same for every audit, given those before.
- The change was before the alarm. No audit from before the alarm certifies anything after it: the estimated change can
  lie before the change, and the audits after it are chosen by their losses. After an alarm, the caller passes audits of
  the revision that the alarm caused, or of later ones (`used_revisions`): they were drawn after the alarm, whenever
  they arrive.
- A change that does not make the policy in force exceed the risk raises no alarm. Tests that began before such a change
  count its audits together with those after it. So a bolder policy can then exceed the risk until its own alarm.
- The registered policy is in force from the start on the word of its own certificate. Up to the first alarm, the
  probability that this certificate is wrong adds to `delta`.
- Fewer than half of the devices, and at most `tolerated_devices`, forge audits. They can delay an alarm and prevent
  bolder policies, but they cannot certify a policy. As many as `tolerated_in_alarms` cannot raise an alarm alone; if as
  many honest devices have all the losses, there is no alarm either.
- The risk is that of audits in which no device has more than its share (see `fair_share`), and of the devices that are
  not set aside. A device that is set aside, or taken back, is a change of the data: the tests begin anew with the
  audits that follow, and the policy in force stays until an alarm. If its loss was above that of the others, the policy
  in force has a lower risk without it (see `device_comparison`).
"""

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from edgeexit.fitting.change_monitor import ChangeAlarm, ChangeMonitor
from edgeexit.fitting.frontier import Thresholds
from edgeexit.fitting.path import conservative_path, path_of_scores
from edgeexit.policies import Certificate, Policy
from edgeexit_calibration.recalibrate.audits import (
    Audits,
    exit_losses,
    mean_costs,
    outcomes,
    point_exits,
    simulated,
)
from edgeexit_calibration.recalibrate.certificates import certificate_of, certificate_of_full_depth
from edgeexit_calibration.recalibrate.chosen_point import ChosenPoint, choose_point, point_within_bounds
from edgeexit_calibration.recalibrate.cohort_monitor import CohortMonitor, new_cohort_monitor
from edgeexit_calibration.recalibrate.device_comparison import DeviceComparison
from edgeexit_calibration.recalibrate.fair_share import FairShare
from edgeexit_calibration.recalibrate.guarantee_rules import NO_GAIN, GuaranteeRules
from edgeexit_calibration.recalibrate.tracked_path import TrackedPath, new_tracked_path, path_delta
from edgeexit_calibration.recalibrate.used_revisions import ALL_REVISIONS, UsedRevisions

_BLOCK: Final = 256
"""Audits that are tested at once."""
_MAX_PATHS: Final = 4
"""Paths that are tested at the same time: the one of the policy in force, and the newest ones."""
_DECISION_GAP: Final = 25
"""Least number of audits between two looks for a cheaper policy."""
_DECISION_GROWTH: Final = 1.02
"""Growth of the number of audits of an epoch between two looks."""
COMPARED_AUDITS: Final = 2000
"""Newest audits of the epoch on which the costs of policies are compared."""

History = Callable[[int, int, int], Audits]
"""`history(first, last, limit)` returns the newest `limit` audits with ids from `first` to `last`."""


class Guarantee(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The state of a cohort, from `begin`; `advance` returns the next state."""

    policy: Policy
    """The policy in force."""
    path: tuple[Thresholds, ...]
    """The path that contains the policy in force; it is tested again after an alarm."""
    paths: tuple[TrackedPath, ...]
    cohort_monitor: CohortMonitor
    shares: FairShare = FairShare()
    """The used audits of each device, in all epochs."""
    comparison: DeviceComparison = DeviceComparison()
    """Of each device with the others, in this epoch."""
    set_aside: tuple[int, ...] = ()
    """The devices whose audits do not count in the tests."""
    first: int
    """Id of the first audit of the epoch."""
    last: int
    """Id of the last audit that was read."""
    used_revisions: UsedRevisions = ALL_REVISIONS
    """Whose audits are passed to `advance`, and returned by `history`."""
    epoch: int = 1
    audits: int = 0
    """Number of used audits in the epoch."""
    next_path_at: int
    """Number of audits at which the next path is chosen."""
    next_look_at: int = _DECISION_GAP
    """Number of audits at which a cheaper policy is looked for."""
    paths_chosen: int = 1
    """Paths of the epoch so far; it determines the part of delta of the next one."""

    @property
    def monitor(self) -> ChangeMonitor:
        """The monitor that an alarm waits for."""
        return self.cohort_monitor.slowest


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True):
    """Another policy is put in force."""

    kind: Literal["stepped back", "bolder", "safer", "within bounds"]
    policy: Policy
    certificate: Certificate
    cost: float
    """Mean cost of the policy on the newest audits of the epoch, in the unit of the costs."""
    cost_before: float
    alarm: ChangeAlarm | None = None
    """What ended the epoch, if the policy steps back."""


def begin(
    policy: Policy, rules: GuaranteeRules, *, last: int, used_revisions: UsedRevisions = ALL_REVISIONS
) -> Guarantee:
    """Return the state of a cohort whose policy was registered after audit `last`."""
    path = conservative_path(policy)
    return Guarantee(
        policy=policy,
        path=path,
        paths=(_tracked(path, rules, number=0, after=last),),
        cohort_monitor=_monitor(rules),
        first=last + 1,
        last=last,
        used_revisions=used_revisions,
        next_path_at=rules.first_path,
    )


def advance(
    state: Guarantee, audits: Audits, history: History, rules: GuaranteeRules
) -> tuple[Guarantee, PolicyChange | None]:
    """Return the state after new audits, up to the first change of the policy, and that change.

    `last` of the state says which audits were read; call again with the others. If `rules` tolerate another number of
    devices or of false alarms than before, or other devices are set aside, the tests begin anew. The monitor does only
    if its own terms are others: it concerns the policy in force, whatever the devices are.
    """
    before = state.cohort_monitor
    has_same_monitor = (before.tolerated_devices, before.alpha) == (rules.tolerated_in_alarms, rules.alpha)
    has_same_tests = has_same_monitor and state.paths[0].devices.tolerated == rules.tolerated_devices
    if rules.set_aside:
        history = _counting(history, rules)
    if not has_same_tests or state.set_aside != rules.set_aside:
        monitor = before if has_same_monitor else _monitor(rules)
        state = _begun_anew(state, monitor, history, rules)
    audits = audits.after(state.last)
    while len(audits.ids):
        size = min(_BLOCK, min(state.next_path_at, state.next_look_at) - state.audits)
        state, alarm = _observed(state, audits.part(0, size), rules)
        if alarm is not None:
            return _stepped_back(state, alarm, history, rules)
        if state.audits >= state.next_path_at:
            state = _with_new_path(state, history, rules)
        if state.audits >= state.next_look_at:
            state, change = _looked(state, history, rules)
            if change is not None:
                return state, change
        audits = audits.after(state.last)
    return state, None


def within_bounds(state: Guarantee, history: History, rules: GuaranteeRules) -> tuple[Guarantee, PolicyChange | None]:
    """Return the state whose policy keeps `min_final_exits`, and the change to it; see `point_within_bounds`."""
    if rules.frozen or not rules.min_final_exits:
        return state, None
    recent = history(state.first, state.last, COMPARED_AUDITS).without(rules.set_aside)
    if not len(recent.ids):  # deleted meanwhile
        return state, None
    chosen = point_within_bounds(
        state.policy, state.paths, recent, costs=rules.costs, min_final_exits=rules.min_final_exits
    )
    return (state, None) if chosen is None else _replaced(state, chosen, "within bounds", rules)


def _observed(state: Guarantee, audits: Audits, rules: GuaranteeRules) -> tuple[Guarantee, ChangeAlarm | None]:
    """Return the state after a block of audits, and the alarm that they raise."""
    counting = audits.without(state.set_aside)
    shares, selected = state.shares.select(counting.devices)
    used = counting.where(selected)
    in_force = outcomes(state.policy, used, [state.policy.thresholds], rules.loss).losses
    monitor = state.cohort_monitor.observe(used, in_force[:, 0])
    alarm = monitor.alarm
    if alarm is not None:
        shares, _ = state.shares.select(counting.devices[counting.ids <= alarm.alarm_position])
        return msgspec.structs.replace(state, shares=shares, last=alarm.alarm_position), alarm
    comparison = state.comparison
    if any(threshold is not None for threshold in state.policy.thresholds):  # at full depth, nothing can be compared
        comparison = comparison.observe(used.devices, in_force[:, 0], risk=rules.risk)
    following = msgspec.structs.replace(
        state,
        cohort_monitor=monitor,
        comparison=comparison,
        shares=shares,
        paths=tuple(path.observe(state.policy, used, rules.loss) for path in state.paths),
        last=int(audits.ids[-1]),
        audits=state.audits + len(used.ids),
    )
    return following, None


def _counting(history: History, rules: GuaranteeRules) -> History:
    """Return a history without the devices that are set aside."""
    return lambda first, last, limit: history(first, last, limit).without(rules.set_aside)


def _begun_anew(state: Guarantee, monitor: CohortMonitor, history: History, rules: GuaranteeRules) -> Guarantee:
    """Return the state with a monitor, and new tests of the path of the policy in force and of a new path."""
    path = _tracked(state.path, rules, number=state.paths_chosen, after=state.last)
    anew = msgspec.structs.replace(
        state,
        cohort_monitor=monitor,
        comparison=state.comparison.without(rules.set_aside),
        set_aside=rules.set_aside,
        paths=(path,),
        paths_chosen=state.paths_chosen + 1,
    )
    return _with_new_path(anew, history, rules) if anew.audits >= rules.first_path else anew


def _monitor(rules: GuaranteeRules) -> CohortMonitor:
    return new_cohort_monitor(rules.risk, alpha=rules.alpha, tolerated_devices=rules.tolerated_in_alarms)


def _tracked(thresholds: tuple[Thresholds, ...], rules: GuaranteeRules, *, number: int, after: int) -> TrackedPath:
    """Return path `number` of an epoch without audits."""
    return new_tracked_path(
        thresholds,
        risk=rules.risk,
        delta=path_delta(number, delta=rules.delta, alpha=rules.alpha),
        after=after,
        tolerated_devices=rules.tolerated_devices,
    )


def _with_new_path(state: Guarantee, history: History, rules: GuaranteeRules) -> Guarantee:
    """Return the state with a path that is chosen from the audits of the epoch, and tested on the ones that follow."""
    next_path_at = state.next_path_at
    while next_path_at <= state.audits:
        next_path_at *= rules.path_growth
    state = msgspec.structs.replace(state, next_path_at=next_path_at)
    chosen_from = history(state.first, state.last, rules.max_path_audits)
    if not len(chosen_from.ids):  # deleted meanwhile
        return state
    scores, predictions = simulated(state.policy, chosen_from)
    thresholds = path_of_scores(scores, exit_losses(predictions, chosen_from, rules.loss), rules.costs)
    path = _tracked(thresholds, rules, number=state.paths_chosen, after=state.last)
    kept = [one for one in state.paths if one.thresholds == state.path][-1:]
    newest = [one for one in state.paths if one.thresholds != state.path]
    return msgspec.structs.replace(
        state, paths=(*kept, *newest[len(kept) + 1 - _MAX_PATHS :], path), paths_chosen=state.paths_chosen + 1
    )


def _looked(state: Guarantee, history: History, rules: GuaranteeRules) -> tuple[Guarantee, PolicyChange | None]:
    """Return the state after a look for a certified policy that is clearly cheaper, and the change to it."""
    next_look_at = max(state.audits + _DECISION_GAP, int(state.audits * _DECISION_GROWTH))
    state, change = within_bounds(msgspec.structs.replace(state, next_look_at=next_look_at), history, rules)
    recent = history(state.first, state.last, COMPARED_AUDITS)
    if change is not None or rules.frozen or rules.min_gain >= NO_GAIN or not len(recent.ids):  # deleted meanwhile
        return state, change
    chosen = choose_point(
        state.policy,
        state.paths,
        recent,
        costs=rules.costs,
        min_gain=rules.min_gain,
        loss=rules.loss,
        budget=rules.budget,
        min_final_exits=rules.min_final_exits,
    )
    return (state, None) if chosen is None else _replaced(state, chosen, chosen.kind, rules)


def _replaced(
    state: Guarantee, chosen: ChosenPoint, kind: Literal["bolder", "safer", "within bounds"], rules: GuaranteeRules
) -> tuple[Guarantee, PolicyChange]:
    """Return the state with a certified point in force, and the change to it."""
    policy = msgspec.structs.replace(state.policy, thresholds=chosen.thresholds)
    change = PolicyChange(
        kind=kind,
        policy=policy,
        certificate=certificate_of(chosen, policy.exits, risk=rules.risk, delta=rules.delta, loss=rules.loss),
        cost=chosen.cost,
        cost_before=chosen.cost_before,
    )
    comparison = state.comparison.under_another_policy()
    return msgspec.structs.replace(state, policy=policy, path=chosen.path.thresholds, comparison=comparison), change


def _stepped_back(
    state: Guarantee, alarm: ChangeAlarm, history: History, rules: GuaranteeRules
) -> tuple[Guarantee, PolicyChange]:
    """Return the first state of the next epoch, and the change to full depth.

    The caller sets `used_revisions` when the change has a revision.
    """
    since = history(alarm.change_position, state.last, rules.max_path_audits)
    full_depth = msgspec.structs.replace(state.policy, thresholds=state.path[0])
    exits = point_exits(simulated(state.policy, since).scores, [full_depth.thresholds, state.policy.thresholds])
    cost, cost_before = mean_costs(exits, rules.costs).tolist() if len(since.ids) else (rules.costs[-1],) * 2
    change = PolicyChange(
        kind="stepped back",
        policy=full_depth,
        certificate=certificate_of_full_depth(exits[:, 0], full_depth.exits, risk=rules.risk, delta=rules.delta),
        cost=cost,
        cost_before=cost_before,
        alarm=alarm,
    )
    following = Guarantee(
        policy=full_depth,
        path=state.path,
        paths=(_tracked(state.path, rules, number=0, after=state.last),),
        cohort_monitor=_monitor(rules),
        shares=state.shares,
        set_aside=state.set_aside,
        first=alarm.change_position,
        last=state.last,
        used_revisions=state.used_revisions,
        epoch=state.epoch + 1,
        audits=len(since.ids),
        next_path_at=rules.first_path,
        next_look_at=len(since.ids) + _DECISION_GAP,
    )
    if following.audits >= rules.first_path:
        following = _with_new_path(following, history, rules)
    return following, change
