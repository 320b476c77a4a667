"""The lines and table rows of `edgeexit calibrator status`; on a narrow screen, names and numbers are shorter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeexit.formatting import milliseconds, percent

if TYPE_CHECKING:
    from edgeexit_calibration import CohortStatus, CohortView, FleetSummary

COHORT_COLUMNS = ("cohort", "devices", "online", "up to date", "revision", "policy", "condition")
METRIC_COLUMNS = ("cohort", "min agreement", "agreement, 95 % interval", "audits", "exit mix", "mean latency")
ACCURACY_COLUMNS = ("cohort", "accuracy", "at full depth", "audits with labels")
NARROW_COHORT_COLUMNS = ("cohort", "devices", "up to date", "rev.", "policy", "condition")
NARROW_METRIC_COLUMNS = ("cohort", "min %", "agreement %", "audits", "exits %", "mean")

_SHORT_DIGEST = 6


def fleet_line(fleet: "FleetSummary") -> str:
    """Return a fleet as one line."""
    found = fleet.processes
    shards = _number(found.shards, "shard")
    if found.processes and found.unowned_shards:
        shards += f", {len(found.unowned_shards)} not stored"
    leader = "no leader" if found.leader is None else f"leader: {found.leader}"
    processes = _number(len(found.processes), "process", "processes")
    return (
        f"{fleet.fleet}: {_number(fleet.devices, 'device')}, {fleet.online:,} online, {fleet.up_to_date:,} up to date; "
        f"{_number(fleet.cohorts, 'cohort')}; {shards}; {processes}, {leader}"
    )


def _number(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def cohort_cells(cohort: "CohortView") -> Sequence[str]:
    """Return a row of the table of cohorts."""
    name, devices, *rest = (str(cohort.address), *narrow_cohort_cells(cohort)[1:])
    return (name, devices, f"{cohort.online:,}", *rest)


def narrow_cohort_cells(cohort: "CohortView") -> Sequence[str]:
    """Return a row of the narrow table of cohorts."""
    registered = cohort.revision is not None
    return (
        _short_name(cohort),
        f"{cohort.devices:,}",
        f"{cohort.up_to_date:,}" if registered else "-",
        str(cohort.revision) if registered else "-",
        cohort.policy or "-",
        (cohort.condition or "no drift") if registered else "not registered",
    )


def metric_cells(status: "CohortStatus") -> Sequence[str]:
    """Return a row of the table of metrics."""
    cohort, measured = status.cohort, status.disagreement
    agreement = "-"
    if measured.observed is not None:
        agreement = f"{percent(1 - measured.observed)} [{percent(1 - measured.high)}, {percent(1 - measured.low)}]"
        agreement += _of_maps(measured.unit)
    return (
        str(cohort.address),
        _bound(cohort),
        agreement,
        f"{measured.samples:,}",
        mix_text(status.exit_rates),
        milliseconds(status.exit_mix.mean_latency_ms),
    )


def accuracy_cells(status: "CohortStatus", *, is_wide: bool) -> Sequence[str]:
    """Return a row of the table of accuracies."""
    found = status.accuracy
    values = ("-" if value is None else percent(value) for value in (found.observed, found.full_depth))
    return (str(status.cohort.address) if is_wide else _short_name(status.cohort), *values, f"{found.samples:,}")


def narrow_metric_cells(status: "CohortStatus") -> Sequence[str]:
    """Return a row of the narrow table of metrics."""
    cohort, measured = status.cohort, status.disagreement
    agreement = "-"
    if measured.observed is not None:
        values = (100 * (1 - value) for value in (measured.observed, measured.high, measured.low))
        agreement = "{:.1f} [{:.1f}, {:.1f}]".format(*values) + _of_maps(measured.unit)
    latency_ms = status.exit_mix.mean_latency_ms
    return (
        _short_name(cohort),
        _narrow_bound(cohort),
        agreement,
        f"{measured.samples:,}",
        "/".join(f"{100 * rate:.0f}" for rate in status.exit_rates or ()) or "-",
        "-" if latency_ms is None else f"{latency_ms:.3g} ms",
    )


def _bound(cohort: "CohortView") -> str:
    """Return the least agreement that is registered, or the maximum risk of another loss."""
    if cohort.risk is None:
        return "-"
    return (
        percent(1 - cohort.risk) if cohort.loss == "disagreement" else f"{cohort.loss} at most {percent(cohort.risk)}"
    )


def _narrow_bound(cohort: "CohortView") -> str:
    if cohort.risk is None:
        return "-"
    is_agreement = cohort.loss == "disagreement"
    return f"{100 * (1 - cohort.risk):.1f}" if is_agreement else f"{cohort.loss} <= {100 * cohort.risk:.1f}"


def mix_text(rates: Sequence[float] | None) -> str:
    """Return the fractions of the exits, e.g. `50.0 % / 30.0 % / 20.0 %`."""
    return " / ".join(percent(rate) for rate in rates or ()) or "-"


def _of_maps(unit: str) -> str:
    """Return what an agreement is a fraction of, unless it is the samples."""
    return "" if unit == "samples" else f" of the {unit}"


def _short_name(cohort: "CohortView") -> str:
    """Return BUNDLE/COHORT with a few digits, which every command understands if it is unique."""
    return f"{cohort.bundle[:_SHORT_DIGEST]}/{cohort.cohort}"
