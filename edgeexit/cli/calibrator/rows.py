"""The table rows of `edgeexit calibrator status`, `devices`, `trend` and `history`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeexit.formatting import milliseconds, percent, threshold_text

if TYPE_CHECKING:
    from edgeexit_calibration import (
        CohortStatus,
        CohortView,
        DeviceView,
        EventView,
        FleetSummary,
        PolicyView,
        TrendPoint,
    )

DEVICE_COLUMNS = ("device", "online", "cohort", "rev.", "key", "troubles")
WIDE_DEVICE_COLUMNS = (*DEVICE_COLUMNS, "last new")
COHORT_COLUMNS = ("cohort", "devices", "online", "up to date", "revision", "policy", "condition")
METRIC_COLUMNS = ("cohort", "min agreement", "agreement, 95 % interval", "audits", "exit mix", "mean latency")
POLICY_COLUMNS = ("revision", "created (UTC)", "by", "policy", "thresholds", "certificate", "reason")
EVENT_COLUMNS = ("event", "time (UTC)", "by", "details")

TREND_COLUMNS = ("begin (UTC)", "span", "samples", "exits", "mean", "p50", "p99", "failed")
WIDE_TREND_COLUMNS = (*TREND_COLUMNS, "exit mix")

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_BAR_WIDTH = 20
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"))
_SHORT_TIME = "%m-%d %H:%M"
_TIME = "%Y-%m-%d %H:%M:%S"


def device_cells(device: "DeviceView") -> Sequence[str]:
    """Return a row of the table of devices."""
    return (
        device.name,
        {True: "yes", False: "no", None: "?"}[device.online],
        f"{(device.bundle or '?')[:6]}/{device.cohort or '?'}",
        "?" if device.revision is None else str(device.revision),
        _key_state(device),
        ", ".join(device.troubles),
    )


def wide_device_cells(device: "DeviceView") -> Sequence[str]:
    """Return a row of the table of devices, with the time of the last new message."""
    return (*device_cells(device), f"{device.last_seen:{_SHORT_TIME}}")


def fleet_line(fleet: "FleetSummary") -> str:
    """Return a fleet as one line."""
    found = fleet.processes
    shards = _number(found.shards, "shard")
    if found.unowned_shards:
        shards += f", {len(found.unowned_shards)} not stored"
    leader = "no leader" if found.leader is None else f"leader: {found.leader}"
    processes = _number(len(found.processes), "process", "processes")
    return (
        f"{fleet.fleet}: {_number(fleet.devices, 'device')}, {fleet.online:,} online, {fleet.up_to_date:,} up to date; "
        f"{_number(fleet.cohorts, 'cohort')}; {shards}; {processes}, {leader}"
    )


def _number(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _key_state(device: "DeviceView") -> str:
    """Return the state of the enrolment of a device; `shown`: it has a key, and has sent no audit yet."""
    if device.revoked_at is not None:
        return "revoked"
    if device.offered_key is None:
        return "none" if device.key is None else "enrolled"
    if device.key is not None:
        return "changed"
    return "waits" if "key not approved" in device.drops else "shown"


def cohort_cells(cohort: "CohortView") -> Sequence[str]:
    """Return a row of the table of cohorts."""
    registered = cohort.revision is not None
    return (
        str(cohort.address),
        f"{cohort.devices:,}",
        f"{cohort.online:,}",
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
    return (
        str(cohort.address),
        "-" if cohort.risk is None else percent(1 - cohort.risk),
        agreement,
        f"{measured.samples:,}",
        mix_text(status.exit_rates),
        milliseconds(status.exit_mix.mean_latency_ms),
    )


def trend_cells(point: "TrendPoint") -> Sequence[str]:
    """Return a row of a trend."""
    latency = point.latency
    return (
        f"{point.begin:%Y-%m-%d %H:%M}",
        _span_text(point.span_s),
        f"{point.samples:,}",
        mix_bar(point.rates),
        *(
            ("-",) * 3
            if latency is None
            else map(short_milliseconds, (latency.mean_ms, latency.p50_ms, latency.p99_ms))
        ),
        f"{point.failed:,}",
    )


def wide_trend_cells(point: "TrendPoint") -> Sequence[str]:
    """Return a row of a trend, with the fractions of the exits."""
    return (*trend_cells(point), mix_text(point.rates))


def mix_text(rates: Sequence[float] | None) -> str:
    """Return the fractions of the exits, e.g. `50.0 % / 30.0 % / 20.0 %`."""
    return " / ".join(percent(rate) for rate in rates or ()) or "-"


def mix_bar(rates: Sequence[float] | None) -> str:
    """Return the fractions of the exits as a bar of their digits, e.g. `00000000001111112222`."""
    bar, total = "", 0.0
    for index, rate in enumerate(rates or ()):
        total += rate
        bar += DIGITS[index % len(DIGITS)] * (round(total * _BAR_WIDTH) - len(bar))
    return bar


def short_milliseconds(value: float) -> str:
    """Return an estimated latency with three digits."""
    return f"{value:.3g} ms"


def _span_text(span_s: int) -> str:
    length, unit = next((length, unit) for length, unit in _SPANS if span_s % length == 0)
    return f"{span_s // length} {unit}"


def policy_cells(policy: "PolicyView") -> Sequence[str]:
    """Return a row of the history of policies."""
    certificate = policy.certificate
    return (
        str(policy.revision),
        f"{policy.created_at:{_TIME}}" + ("" if policy.published_at else " (not published yet)"),
        policy.created_by,
        policy.policy,
        " ".join(threshold_text(threshold) for threshold in policy.thresholds),
        "none"
        if certificate is None
        else f"<= {percent(certificate.risk)} at {100 * (1 - certificate.delta):g} %, n = {certificate.samples}",
        policy.reason,
    )


def event_cells(event: "EventView") -> Sequence[str]:
    """Return a row of the audit log."""
    details = "; ".join(
        f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in event.details.items()
    )
    return event.kind, f"{event.time:{_TIME}}", event.actor, details
