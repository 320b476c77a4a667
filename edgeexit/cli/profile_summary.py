"""Prints a profile, and the comparison of two bundles."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeexit.cli.advice import how_to_get_a_policy
from edgeexit.console import console, print_table, printable
from edgeexit.formatting import milliseconds, percent

if TYPE_CHECKING:
    from edgeexit.latency import LatencyProfile
    from edgeexit.runtime.intervals import Interval
    from edgeexit.runtime.profiling.compare import BundleComparison
    from edgeexit.telemetry import Telemetry


def print_profile(profile: "LatencyProfile", exits: Sequence[str]) -> None:
    """Print the latencies of a profile, their parts for each exit, and the board's sensors."""
    rows = [(stage.name, stage.latency) for stage in profile.stages]
    if profile.end_to_end is not None:
        rows.append((f"end to end, {profile.policy}", profile.end_to_end))
    print_table(
        f"{profile.machine}, {profile.runtime}, {profile.threads or 'all'} thread(s), batch {profile.batch}",
        ("", "mean", "p50", "p90", "p99", "samples"),
        [
            (
                name,
                milliseconds(latency.mean_ms),
                milliseconds(latency.p50_ms),
                milliseconds(latency.p90_ms),
                milliseconds(latency.p99_ms),
                f"{latency.samples:,}",
            )
            for name, latency in rows
        ],
    )
    console.print("p90 and p99 are MLPerf's early-stopping estimates: upper bounds with 99 % confidence")
    console.print(f"cold load {milliseconds(profile.cold_load_ms)}, first run {milliseconds(profile.first_run_ms)}")
    _print_where_time_goes(profile)
    if profile.exit_rates is not None:
        mix = ", ".join(f"{name} {percent(rate)}" for name, rate in zip(exits, profile.exit_rates, strict=True))
        console.print(printable(f"exits taken end to end: {mix}"))
    if profile.telemetry is not None:
        for line in _sensor_lines(profile.telemetry):
            console.print(printable(line), soft_wrap=True)
    if profile.load is not None:
        console.print(printable(f"load: {profile.load}"), soft_wrap=True)
    if profile.energy_per_inference_mj is not None:
        console.print(
            f"energy of the board, idle power included: {profile.energy_per_inference_mj:.3f} mJ per inference"
        )
    if profile.settings:
        settings = ", ".join(f"{name} {value}" for name, value in profile.settings.items())
        console.print(printable(f"settings: {settings}"), soft_wrap=True)


def print_comparison(comparison: "BundleComparison", a: str, b: str) -> None:
    """Print the ratio B / A for every exit, with its interval."""
    rows = [
        (f"to {name}", milliseconds(comparison.a.exit_ms[name]), milliseconds(comparison.b.exit_ms[name]), ratio)
        for name, ratio in comparison.exits.items()
    ]
    if comparison.end_to_end is not None:
        policies = {comparison.a.policy, comparison.b.policy}
        name = f"end to end, {' and '.join(sorted(policy for policy in policies if policy is not None))}"
        times = milliseconds(comparison.a.end_to_end_ms), milliseconds(comparison.b.end_to_end_ms)
        rows.append((name, *times, comparison.end_to_end))
    print_table(
        f"B = {b} over A = {a}: medians of {comparison.pairs:,} pairs, end to end means; {comparison.machine}",
        ("", "A", "B", "B over A", "95 % interval", ""),
        [
            (name, of_a, of_b, f"{ratio.value:.3f}x", f"{ratio.low:.3f} to {ratio.high:.3f}", _verdict(ratio))
            for name, of_a, of_b, ratio in rows
        ],
    )

    only = [
        f"{name} of {side}"
        for side, one in (("A", comparison.a), ("B", comparison.b))
        for name in one.exit_ms
        if name not in comparison.exits
    ]
    if only:
        console.print(printable(f"exits that only one bundle has are left out: {', '.join(only)}"), soft_wrap=True)


def print_no_end_to_end(bundle: Path, *, has_policy: bool) -> None:
    """Print why there is no end-to-end latency, and the command that measures it or makes it possible."""
    if has_policy:
        text = f"the profile of '{bundle}' is older than its policy; run `edgeexit profile {bundle}`"
    else:
        text = f"'{bundle}' has no policy; run `{how_to_get_a_policy(bundle)}`"
    console.print(printable(f"no end-to-end latency: {text}"), soft_wrap=True)


def _verdict(ratio: "Interval") -> str:
    if ratio.low <= 1 <= ratio.high:
        return "no significant difference"
    return "B is slower" if ratio.value > 1 else "B is faster"


def _print_where_time_goes(profile: "LatencyProfile") -> None:
    if not profile.paths:
        return
    readouts = [stage.readout_ms for stage in profile.stages]
    print_table(
        "Mean latency per sample, by exit taken",
        ("exit", "total", "stages", "of which readouts", "decisions", "overhead"),
        [
            (
                path.exit,
                milliseconds(path.latency.mean_ms),
                milliseconds(sum(path.stages_ms)),
                milliseconds(_sum(readouts[: len(path.stages_ms)])),
                milliseconds(path.decisions_ms),
                milliseconds(path.overhead_ms),
            )
            for path in profile.paths
        ],
    )


def _sum(values: "Sequence[float | None]") -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _sensor_lines(telemetry: "Telemetry") -> "Sequence[str]":
    """Return one line per kind of sensor, without sensors that gave no value, and a line about throttling."""
    lines = []
    for what, unit, sensors in (
        ("temperature", "°C", telemetry.temperatures_c),
        ("power", "mW", telemetry.power_mw),
        ("clock", "MHz", telemetry.clocks_mhz),
        ("fan", "rpm", telemetry.fans_rpm),
    ):
        known = {name: spread for name, spread in sensors.items() if spread is not None}
        if known:
            shown = (f"{name} {spread.mean:g} ({spread.min:g} to {spread.max:g})" for name, spread in known.items())
            lines.append(f"{what} in {unit}, mean (range): {', '.join(shown)}")
    throttled = {True: "throttled", False: "not throttled", None: "throttling cannot be detected"}
    return (
        *lines,
        f"board: {throttled[telemetry.throttled]}, {telemetry.readings} readings of {telemetry.reading_ms:.2f} ms",
    )
