"""Why the policy of a cohort is what it is: what it costs, what would make it bolder, and how soon an alarm comes.

Reads the stored state of the guarantee and advances it, in memory only, by the audits that arrived since it was stored.
"""

from datetime import datetime
from math import ceil
from typing import Any, Final

import msgspec
import numpy.typing as npt
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgeexit.errors import EdgeExitError
from edgeexit.fitting.change_monitor import detection_bound
from edgeexit.fitting.path_test import PathTest, samples_to_certify
from edgeexit.policies.document import Loss
from edgeexit_calibration.recalibrate.audit_rate import useful_audits
from edgeexit_calibration.recalibrate.audits import Audits, mean_costs, outcomes, point_exits, simulated
from edgeexit_calibration.recalibrate.budget_state import BudgetState, PointUnderTest, budget_state
from edgeexit_calibration.recalibrate.found_devices import DecidedDevice, decided_devices, devices_set_aside
from edgeexit_calibration.recalibrate.guarantee import COMPARED_AUDITS, Guarantee, advance
from edgeexit_calibration.recalibrate.guarantee_rules import DEFAULT_MIN_GAIN, GuaranteeRules
from edgeexit_calibration.recalibrate.held_back import BoundName, held_back_by
from edgeexit_calibration.recalibrate.policy_changes import counted_changes
from edgeexit_calibration.recalibrate.stored_audits import AuditReader
from edgeexit_calibration.recalibrate.stored_guarantees import read_guarantee
from edgeexit_calibration.store.cohorts import CohortAddress, comparable_revisions, find_cohort
from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.policy_bounds import PolicyBounds, read_bounds
from edgeexit_calibration.store.tables import AuditedSampleRow, RegistrationRow
from edgeexit_calibration.views.field_costs import CohortCosts, costs_in_use
from edgeexit_calibration.views.history import PolicyView, policy_history
from edgeexit_calibration.views.metrics import UNITS, Accuracy, Unit, accuracy_of

_CHANGES: Final = 5
_DEVICES: Final = 5
_MAX_NEW_AUDITS: Final = 20_000
"""At most so many audits are used that the stored state has not seen."""
_RATE_AUDITS: Final = 1000
"""Newest audits whose rate is the recent one."""
_MIN_SPAN_S: Final = 1.0


class ExplanationError(EdgeExitError):
    """Nothing can be said about the policy of a cohort: it is not registered, or the calibrator has not checked it."""


class BolderPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The next policy that would be put in force."""

    cost: float
    """Mean cost as a fraction of that of full depth."""
    audits_missing: int
    """Audits that certify it if its disagreement stays as on the newest audits; 0: it is certified. An estimate."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort, its policy in force, and what its audits say."""

    fleet: str
    bundle: str
    cohort: str
    exits: tuple[str, ...]
    risk: float
    delta: float
    loss: Loss
    """What `risk` bounds."""
    unit: Unit
    """What the fractions of losses are of."""
    policy: PolicyView
    """The policy in force."""
    epoch: int
    """Number of the epoch; each alarm begins another one."""
    audits: int
    """Number of audits in the epoch."""
    audits_per_hour: float | None
    """Rate of the newest audits; null without audits."""
    exit_rates: tuple[float, ...] | None
    """[K] exit mix of the policy in force on the newest audits of the epoch; null without audits."""
    cost: float | None
    """Its mean cost as a fraction of that of full depth; null without audits."""
    accuracy: Accuracy
    """Of the policy in force and of full depth, on the newest audits of the epoch that have a label."""
    bolder: BolderPolicy | None
    """The next policy within the bounds that saves enough; null if no policy under test does, if none can be
    certified, and within the budget."""
    costs: CohortCosts
    """With which policies are compared."""
    budget: BudgetState | None
    """null: the cost is to be as low as possible."""
    next_path_in: int
    """Audits after which further bolder policies are put to the test."""
    raised_audits_end_in: int | None
    """Audits after which devices audit their own fractions again; null if they do now."""
    raised_risk: float
    """A risk that is too high: twice the registered one."""
    alarm_within: int | None
    """Audits within which an alarm comes with probability 1 - delta if the risk rises to `raised_risk`.

    Null if the policy is full depth, whose risk is 0.
    """
    alarm_raised: bool
    """Whether the newest audits raise an alarm that the calibrator has not answered yet."""
    bounds: PolicyBounds
    """The bounds that a user has set."""
    held_back_by: BoundName | None
    """The bound but for which a certified policy would be put in force; null if none holds it back."""
    devices: tuple[DecidedDevice, ...]
    """The first devices that are set aside or far from the cohort; the figures are those of the others."""
    changes: tuple[PolicyView, ...]
    """The newest revisions, oldest first."""

    @property
    def address(self) -> CohortAddress:
        """The address of the cohort."""
        return CohortAddress(self.fleet, self.bundle, self.cohort)

    def hours(self, audits: int) -> float | None:
        """Return in how many hours so many audits arrive at the recent rate; None if the rate is not known."""
        return audits / self.audits_per_hour if self.audits_per_hour else None


def explain(database: Database, cohort: CohortAddress, *, now: datetime) -> Explanation:
    """Return why the policy of a registered cohort is what it is.

    Raises ExplanationError if the cohort is not registered, or if the calibrator has not checked its policy yet, and
    DatabaseError.
    """
    changes = policy_history(database, cohort, limit=_CHANGES)
    with database.reading() as session:
        found = find_cohort(session, cohort)
        registration = None if found is None else session.get(RegistrationRow, found.id)
        if found is None or registration is None or not changes:
            raise ExplanationError(
                f"cohort '{cohort}' is not registered, so nothing is guaranteed; see `edgeexit calibrator register`"
            )
        stored = read_guarantee(session, found.id)
        if stored is None:
            raise ExplanationError(
                f"the calibrator has not checked cohort '{cohort}' yet; does `edgeexit calibrator run` run?"
            )
        _check_registration(cohort, registration, stored.rules)
        revisions = comparable_revisions(session, found.id, stored.state.policy)
        used = stored.state.used_revisions
        reader = AuditReader(found.id, stored.state.policy, revisions, used, loss=stored.rules.loss)
        costs = costs_in_use(registration)
        found_bounds = read_bounds(session, found.id)
        bounds = PolicyBounds() if found_bounds is None else found_bounds.bounds
        rules = msgspec.structs.replace(
            _with_bounds(stored.rules, bounds, devices_set_aside(session, found.id)),
            costs=costs.cumulative,
            budget=registration.budget_ms if costs.unit == "ms" else None,
        )
        changed = counted_changes(session, found.id, now=now)
        devices = decided_devices(session, found.id, limit=_DEVICES)
        state, alarm_raised = _up_to_date(session, reader, stored.state, rules)
        recent = reader.newest(session, first=state.first, last=state.last, limit=COMPARED_AUDITS)
        recent = recent.without(rules.set_aside)
        labelled_reader = AuditReader(found.id, stored.state.policy, revisions, used, loss="error")
        labelled = labelled_reader.newest(session, first=state.first, last=state.last, limit=COMPARED_AUDITS)
        rate = _audits_per_hour(session, reader, now)
    exit_rates, cost, points = _on_audits(state, rules, recent)
    return Explanation(
        **cohort._asdict(),
        exits=tuple(registration.exits),
        risk=rules.risk,
        delta=rules.delta,
        loss=rules.loss,
        unit=UNITS[registration.task],
        policy=changes[-1],
        epoch=state.epoch,
        audits=state.audits,
        audits_per_hour=rate,
        exit_rates=exit_rates,
        cost=None if cost is None else cost / rules.costs[-1],
        accuracy=_accuracy(state, labelled.without(rules.set_aside)),
        bolder=_bolder(cost, points, rules),
        costs=costs,
        budget=_budget(registration, cost if costs.unit == "ms" else None, points),
        next_path_in=max(state.next_path_at - state.audits, 0),
        raised_audits_end_in=None if changes[-1].audit is None else max(useful_audits(rules) - state.audits, 0),
        raised_risk=_raised(rules.risk),
        alarm_within=_alarm_within(state, rules),
        alarm_raised=alarm_raised,
        bounds=bounds,
        held_back_by=held_back_by(state, rules, recent, changes=changed),
        devices=devices,
        changes=tuple(changes),
    )


def _check_registration(cohort: CohortAddress, registration: RegistrationRow, rules: GuaranteeRules) -> None:
    """Raise ExplanationError if the stored state is that of an earlier registration."""
    if (registration.loss, registration.risk, registration.delta) != (rules.loss, rules.risk, rules.delta):
        raise ExplanationError(
            f"the calibrator has not checked cohort '{cohort}' since it was registered with the {registration.loss} "
            f"{registration.risk:g} and delta {registration.delta:g}; does `edgeexit calibrator run` run?"
        )


def _with_bounds(rules: GuaranteeRules, bounds: PolicyBounds, set_aside: tuple[int, ...]) -> GuaranteeRules:
    """Return the rules under which the state was stored, with what users have decided since."""
    own_changes = bounds.max_changes_per_day
    return msgspec.structs.replace(
        rules,
        frozen=bounds.frozen,
        min_final_exits=bounds.min_final_exits,
        min_gain=DEFAULT_MIN_GAIN if bounds.min_gain is None else bounds.min_gain,
        max_changes_per_day=rules.max_changes_per_day if own_changes is None else own_changes,
        set_aside=set_aside,
    )


def _up_to_date(
    session: Session, reader: AuditReader, state: Guarantee, rules: GuaranteeRules
) -> tuple[Guarantee, bool]:
    """Return the state after the audits that it has not seen, and whether they raise an alarm; no policy changes."""

    def history(first: int, last: int, limit: int) -> Audits:
        return reader.newest(session, first=first, last=last, limit=limit)

    newest = session.scalar(select(func.max(AuditedSampleRow.id))) or 0
    audits = reader.oldest(session, after=state.last, until=newest, limit=_MAX_NEW_AUDITS)
    advanced, change = advance(state, audits, history, msgspec.structs.replace(rules, frozen=True))
    return (advanced, False) if change is None else (state, True)


def _on_audits(
    state: Guarantee, rules: GuaranteeRules, recent: Audits
) -> tuple[tuple[float, ...] | None, float | None, list[PointUnderTest]]:
    """Return the exit mix and the mean cost of the policy in force, and all points under test, on the newest audits."""
    if not len(recent.ids):
        return None, None, []
    exits = point_exits(simulated(state.policy, recent).scores, [state.policy.thresholds])
    cost = float(mean_costs(exits, rules.costs)[0])
    rates = tuple(float((exits == k).mean()) for k in range(state.policy.exits))
    points: list[PointUnderTest] = []
    for path in state.paths:
        outcome = outcomes(state.policy, recent, path.thresholds, rules.loss)
        missing = _audits_missing(path.test, outcome.losses.mean(axis=0))
        costs = mean_costs(outcome.exits, rules.costs)
        finals = (outcome.exits == state.policy.exits - 1).mean(axis=0)
        of_path = zip(costs.tolist(), finals.tolist(), missing, strict=True)
        points += [PointUnderTest(own, audits) for own, final, audits in of_path if final >= rules.min_final_exits]
    return rates, cost, points


def _bolder(cost: float | None, points: list[PointUnderTest], rules: GuaranteeRules) -> BolderPolicy | None:
    """Return the next policy that is put in force for its cost, as it can be certified; None: none."""
    if cost is None or rules.frozen or (rules.budget is not None and cost <= rules.budget):
        return None
    candidates = [
        BolderPolicy(cost=point.cost / rules.costs[-1], audits_missing=point.audits_missing)
        for point in points
        if point.audits_missing is not None and point.cost <= (1 - rules.min_gain) * cost
    ]
    return min(candidates, key=lambda one: (one.audits_missing, one.cost), default=None)


def _budget(registration: RegistrationRow, cost_ms: float | None, points: list[PointUnderTest]) -> BudgetState | None:
    return None if registration.budget_ms is None else budget_state(registration.budget_ms, cost_ms, points)


def _accuracy(state: Guarantee, labelled: Audits) -> Accuracy:
    """Return the accuracy of the policy in force and of full depth on audits with labels."""
    correct = 1 - outcomes(state.policy, labelled, [state.policy.thresholds, state.path[0]], "error").losses
    in_force, final = correct.sum(axis=0).tolist()
    return accuracy_of(len(labelled.ids), int(in_force), int(final))


def _audits_missing(test: PathTest, mean_losses: npt.NDArray[Any]) -> list[int | None]:
    """Return how many audits certify each point [P] and all safer ones, for mean losses [P]; None: no number does."""
    samples = max(test.samples, 1)
    expected = msgspec.structs.replace(test, samples=samples, loss_sums=samples * mean_losses)
    found: list[int | None] = []
    needed: int | None = 0
    for point in range(len(mean_losses)):
        own = samples_to_certify(expected, point)
        needed = None if needed is None or own is None else max(needed, own)
        found.append(needed)
    return found


def _raised(risk: float) -> float:
    """Return twice the risk, or what lies between it and 1."""
    return min(2 * risk, (1 + risk) / 2)


def _alarm_within(state: Guarantee, rules: GuaranteeRules) -> int | None:
    """Return the bound in audits of the cohort; the monitor reads only a part of them if devices may forge theirs."""
    if all(threshold is None for threshold in state.policy.thresholds):
        return None
    bound = detection_bound(state.monitor, _raised(rules.risk), delta=rules.delta)
    return None if bound is None else ceil(bound / state.cohort_monitor.read_share)


def _audits_per_hour(session: Session, reader: AuditReader, now: datetime) -> float | None:
    """Return the rate of the newest audits that are used, up to now."""
    count, first = reader.arrived(session, limit=_RATE_AUDITS)
    if first is None:
        return None
    return 3600 * count / max((now - first).total_seconds(), _MIN_SPAN_S)
