"""Prints the progress and the result of `edgeexit fleet simulate`."""

from types import TracebackType
from typing import TYPE_CHECKING, Final

from edgeexit.console import console, next_step, notes, print_table, printable, warn

if TYPE_CHECKING:
    from edgeexit.simulate import SimulationOptions, SimulationOutcome
    from edgeexit.simulate.fleet_load import LoadProgress

_PLAIN_EVERY: Final = 10
"""Without a terminal, one of so many progress lines is printed."""
_QUOTA_PER_MINUTE: Final = 600
_MAX_DEVICES: Final = 10_000
"""Defaults of the calibrator."""


class LoadLine:
    """A line of progress on standard error."""

    def __init__(self) -> None:
        self._status = notes.status("connecting")
        self._calls = 0
        self._known: tuple[float, int] | None = None

    def __enter__(self) -> "LoadLine":
        if notes.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def show(self, progress: "LoadProgress") -> None:
        """Show where a run is."""
        rate = 0.0
        if self._known is not None and progress.seconds > self._known[0]:
            rate = (progress.acknowledged - self._known[1]) / (progress.seconds - self._known[0])
        self._known = progress.seconds, progress.acknowledged
        text = (
            f"{progress.phase}: {progress.seconds:.0f} s, {progress.reports:,} reports, {progress.acknowledged:,} "
            f"acknowledged ({rate:,.0f}/s), {progress.waiting:,} messages in flight"
        )
        if notes.is_terminal:
            self._status.update(text)
        elif self._calls % _PLAIN_EVERY == 0:
            notes.print(text, soft_wrap=True)
        self._calls += 1


def print_outcome(outcome: "SimulationOutcome", options: "SimulationOptions") -> None:
    """Print the result for people."""
    rows = [
        ("devices", f"{outcome.devices:,} on {outcome.connections:,} connections"),
        ("reports sent", f"{outcome.reports:,} in {outcome.seconds:.1f} s"),
        ("reports acknowledged", f"{outcome.acknowledged_reports:,}"),
        ("audits sent", f"{outcome.audits:,} with {outcome.audited_samples:,} samples"),
        ("audits acknowledged", f"{outcome.acknowledged_audits:,}"),
        ("states sent", f"{outcome.states:,}"),
        ("sent again", f"{outcome.copies:,}"),
        ("not answered", f"{outcome.unanswered:,}"),
        ("acknowledged per second", _number(outcome.reports_per_s, "{:,.0f} reports")),
        ("until the states were stored", f"{outcome.warm_up_s:.1f} s"),
        ("time to acknowledgement", f"p50 {_seconds(outcome.ack_p50_s)}, p99 {_seconds(outcome.ack_p99_s)}"),
        ("reconnects", f"{outcome.reconnects:,}"),
        ("active revisions", ", ".join(f"{one}: {count:,} devices" for one, count in outcome.revisions.items())),
    ]
    rows.append(("CPU time of the simulation", f"{outcome.cpu_s:.1f} s"))
    rows += [(f"events: {name}", f"{count:,}") for name, count in outcome.events.items()]
    rows += [(f"malicious: {kind}", f"{count:,}") for kind, count in outcome.malicious.items()]
    if outcome.malicious:
        answers = f"{outcome.malicious_acknowledged:,} acknowledged, {outcome.malicious_refused:,} refused"
        rows.append(("malicious: answers", answers))
    rows += [(f"refused: {reason}", f"{count:,}") for reason, count in outcome.refused.items()]
    rows += [(f"refused for now: {reason}", f"{count:,}") for reason, count in outcome.refused_for_now.items()]
    if outcome.database is not None:
        rows += [(f"not stored: {cause}", f"{count:,}") for cause, count in outcome.database.drops.items()]
    print_table("simulated fleet", ("figure", "value"), rows)
    _warn(outcome, options)
    _print_balance(outcome)


def _warn(outcome: "SimulationOutcome", options: "SimulationOptions") -> None:
    if not outcome.unanswered:
        return
    if outcome.unanswered_by_broker:
        warn(f"the broker refuses {outcome.unanswered_by_broker:,} messages; do its access rules allow these topics?")
    per_minute = 60 * outcome.reports / max(outcome.seconds, 1) / outcome.devices
    if outcome.devices > _MAX_DEVICES:
        warn(f"{outcome.devices:,} devices are more than the calibrator's default; run it with --max-devices")
    if per_minute > _QUOTA_PER_MINUTE:
        warn(
            f"each device sent {per_minute:,.0f} reports per minute, above the calibrator's default quota of "
            f"{_QUOTA_PER_MINUTE}; give more --devices, or run it with --messages-per-minute"
        )
    if not outcome.acknowledged_reports:
        warn(f"nothing was acknowledged; does a calibrator of fleet '{options.fleet}' run at this broker?")


def _print_balance(outcome: "SimulationOutcome") -> None:
    balance = outcome.database
    if balance is None:
        next_step("repeat it with --database to compare what was sent with what the calibrator stored")
        return
    if outcome.is_exact:
        console.print("difference to the database: 0 (nothing lost, nothing double, nothing wrong)")
        return
    if not balance.differences:
        console.print("difference to the database: unknown, because nothing was acknowledged")
        return
    console.print(
        f"difference to the database: {balance.differences:,} ({balance.lost:,} lost, {balance.double:,} double, "
        f"{balance.wrong:,} wrong)"
    )
    for group in balance.groups:
        console.print(f"  {group.kind}, {group.what}: {group.count:,}, e.g.")
        for one in group.first:
            console.print(f"    {printable(one.device)}: {printable(one.text)}", soft_wrap=True)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
