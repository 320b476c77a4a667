"""Checks the budget of a registration: a bound on the mean cost of a sample, in ms."""

from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_CEILING, Context
from math import isfinite

from sqlalchemy.orm import Session

from edgeexit.errors import FittingError
from edgeexit_calibration.store.tables import CohortRow, RegistrationRow
from edgeexit_calibration.views.field_costs import CohortCosts, costs_in_use, field_costs


def costs_now(session: Session, cohort: CohortRow, registration: RegistrationRow, *, now: datetime) -> CohortCosts:
    """Return the costs that the calibrator uses, or will use at its next check if devices have measured theirs."""
    if registration.field_costs is None:
        found = field_costs(session, cohort, len(registration.exits), "open", now=now)
        if found is not None:
            return CohortCosts(unit="ms", cumulative=found.cumulative_ms, devices=found.devices)
    return costs_in_use(registration)


def checked_budget(
    budget_ms: float | None, costs: CohortCosts, *, kept: float | None, bundle: str, rejected: Sequence[str]
) -> float | None:
    """Return the budget of a registration; None: it has none.

    Args:
        budget_ms: as the user gave it; None: not given.
        costs: with which policies are compared.
        kept: the budget if none is given.
        bundle: name of the bundle, for messages.
        rejected: why the latencies of the bundle's profile are not used, for messages.

    Raises FittingError for a budget that is no positive number, needs other costs, or that no policy can meet.

    """
    if budget_ms is None:
        return kept
    if not (isfinite(budget_ms) and budget_ms > 0):
        raise FittingError(f"a budget of {budget_ms:g} ms: it must be a positive number of milliseconds, e.g. 5")
    if costs.unit != "ms":
        profile = f"its profile is invalid ({rejected[0]})" if rejected else "it has no profile"
        advice = "profile it again with nothing else running, or add --force" if rejected else "run `edgeexit profile`"
        raise FittingError(
            f"a budget of {budget_ms:g} ms needs costs in ms, but those of bundle '{bundle}' are multiply-accumulates: "
            f"{profile}, and too few devices of the cohort have sent a valid one; {advice}, or request profiles of "
            "devices with `edgeexit calibrator command profile`"
        )
    first = costs.cumulative[0]
    if budget_ms < first:
        lowest = Context(prec=6, rounding=ROUND_CEILING).create_decimal(first).normalize()  # rounded to a valid budget
        source = " in this cohort" if costs.devices else ""
        raise FittingError(
            f"a budget of {budget_ms:g} ms cannot be met: the first exit alone costs {lowest:f} ms{source}"
        )
    return budget_ms


def budget_details(budget_ms: float | None) -> dict[str, float]:
    """Return what the event of a registration says of its budget: nothing if it has none."""
    return {} if budget_ms is None else {"budget_ms": budget_ms}
