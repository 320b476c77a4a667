"""A bundle's latency profile as a page."""

from collections.abc import Sequence
from typing import Final

from edgeexit.formatting import milliseconds, percent
from edgeexit.latency import Drift, LatencyProfile, LatencySummary
from edgeexit.report.page import Chart, KeyFigure, Section, Table, render_page
from edgeexit.report.profile_figures import draw_run, draw_spread, draw_where_time_goes, told_sensors
from edgeexit.telemetry import SensorRange, Telemetry

_PARTS: Final = (
    "Readouts: softmax, the two highest probabilities and the entropy, measured as the difference between each stage "
    "with and without them. Decisions: the policy. Staging: checking inputs, handing over, collecting the answer."
)
_NO_READOUTS: Final = "What the readouts cost is not known on this runtime; it is part of the stages."
_PERCENTILES: Final = (
    "p50 is the plain median. p90 and p99 are MLPerf LoadGen's early-stopping estimates: with 99 % confidence the true "
    "ones are not above. Below 64 and 662 samples they are not told."
)


def draw_profile(profile: LatencyProfile, model: str, exits: Sequence[str]) -> bytes:
    """Return the page as UTF-8 HTML; nothing is fetched.

    Args:
        profile: as measured; without raw samples, as it comes over the wire, two figures are left out.
        model: its name, for the heading.
        exits: names [K].

    """
    setting = f"{profile.machine}, {profile.runtime}, {profile.threads or 'all'} thread(s), batch {profile.batch}."
    invalid = "" if profile.invalid is None else f" Not to be used as costs: {profile.invalid}."
    sections = (
        _where_time_goes(profile, exits),
        _spread(profile),
        _over_the_run(profile),
        _in_figures(profile, exits),
        _machine(profile),
    )
    return render_page(
        title=f"{model}: latency",
        subtitle=f"{setting}{invalid}",
        key_figures=_key_figures(profile),
        sections=[section for section in sections if section is not None],
    )


def _key_figures(profile: LatencyProfile) -> list[KeyFigure]:
    whole = KeyFigure(value=milliseconds(profile.cumulative_ms[-1]), meaning="mean of all stages together")
    if profile.end_to_end is None:
        return [whole]
    early = profile.end_to_end
    figures = [
        KeyFigure(value=milliseconds(early.mean_ms), meaning=f"mean under the {profile.policy} policy"),
        KeyFigure(value=milliseconds(early.p99_ms), meaning="p99 under it, MLPerf's estimate"),
        whole,
    ]
    if (energy := profile.energy_per_inference_mj) is not None:
        figures.append(KeyFigure(value=f"{energy:.2f} mJ", meaning="of the whole board, an inference"))
    return figures


def _where_time_goes(profile: LatencyProfile, exits: Sequence[str]) -> Section:
    under_policy = "Means of the samples that left at each exit, under the policy and with the data's mix of exits."
    forced = "Means of the stages up to each exit, every one forced to run."
    unknown = any(stage.readout_ms is None for stage in profile.stages)
    return Section(
        title="Where the time goes",
        texts=(under_policy if profile.paths else forced,),
        charts=(
            Chart(
                name="where",
                figure=draw_where_time_goes(profile, exits),
                description="Stacked bars: where the time goes, exit by exit.",
            ),
        ),
        notes=(_PARTS, _NO_READOUTS) if unknown else (_PARTS,),
    )


def _spread(profile: LatencyProfile) -> Section | None:
    figure = draw_spread(profile)
    if figure is None:
        return None
    return Section(
        title="How latencies spread",
        texts=(
            "The share of runs that take so long or longer, on two logarithmic scales: a steep fall is a steady stage.",
        ),
        charts=(Chart(name="spread", figure=figure, description="Share of runs above each latency, per stage."),),
        notes=("From a thousand samples of each at most, evenly over the run.",),
    )


def _over_the_run(profile: LatencyProfile) -> Section | None:
    figure = draw_run(profile)
    if figure is None:
        return None
    scale = "Latencies stand on a logarithmic scale."
    return Section(
        title="Over the run",
        texts=(scale,) if profile.drift is None else (_drift(profile.drift), scale),
        charts=(Chart(name="run", figure=figure, description="Latency over the run, and what the board told."),),
        notes=() if told_sensors(profile.readings) else ("The board has no sensors that could be read.",),
    )


def _drift(drift: Drift) -> str:
    verdict = "the machine drifted" if drift.drifted else "no drift beyond noise and 5 %"
    return (
        "From the first quarter of the run to the last, part by part, the first stage, which every inference runs, "
        f"took {drift.ratio:.3f} times as long ({drift.low:.3f} to {drift.high:.3f}): {verdict}."
    )


def _in_figures(profile: LatencyProfile, exits: Sequence[str]) -> Section:
    rows = [
        (
            stage.name,
            *_cells(stage.latency),
            milliseconds(stage.readout_ms),
            milliseconds(None if stage.decision is None else stage.decision.mean_ms),
        )
        for stage in profile.stages
    ]
    if profile.end_to_end is not None:
        rows.append((f"end to end, {profile.policy}", *_cells(profile.end_to_end), "-", "-"))
    rows += [
        (f"leaves at {path.exit}", *_cells(path.latency), "-", milliseconds(path.decisions_ms))
        for path in profile.paths
    ]
    texts: tuple[str, ...] = ()
    if profile.exit_rates is not None:
        mix = ", ".join(f"{name} {percent(rate)}" for name, rate in zip(exits, profile.exit_rates, strict=True))
        texts = (f"Exit mix: {mix}.",)
    columns = ("", "mean", "p50", "p90", "p99", "samples", "readout", "decisions")
    return Section(
        title="In figures", texts=texts, tables=(Table(columns=columns, rows=tuple(rows)),), notes=(_PERCENTILES,)
    )


def _cells(latency: LatencySummary) -> tuple[str, ...]:
    figures = (latency.mean_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms)
    return (*(milliseconds(figure) for figure in figures), f"{latency.samples:,}")


def _machine(profile: LatencyProfile) -> Section:
    cold = profile.settings.get("cold load")
    settings = {
        "cold load": milliseconds(profile.cold_load_ms) + ("" if cold is None else f", {cold}"),
        "first run": milliseconds(profile.first_run_ms),
        **{name: value for name, value in profile.settings.items() if name != "cold load"},
    }
    tables = [Table(columns=("", ""), rows=tuple(settings.items()))]
    if (told := profile.telemetry) is not None and (rows := _sensor_rows(told)):
        tables.append(Table(columns=("sensor", "mean", "lowest", "highest"), rows=rows))
    return Section(title="The machine", texts=() if told is None else (_board(told),), tables=tuple(tables))


def _board(told: Telemetry) -> str:
    state = {
        True: f"throttled ({'; '.join(told.reasons)})",
        False: "not throttled",
        None: "throttled or not, it cannot tell",
    }
    return (
        f"The board: {state[told.throttled]}; {told.readings} readings over {told.seconds:.1f} s, "
        f"{told.reading_ms:.2f} ms each."
    )


def _sensor_rows(told: Telemetry) -> tuple[tuple[str, ...], ...]:
    groups = (("°C", told.temperatures_c), ("mW", told.power_mw), ("MHz", told.clocks_mhz), ("rpm", told.fans_rpm))
    return tuple((name, *_range(spread, unit)) for unit, group in groups for name, spread in group.items())


def _range(spread: SensorRange | None, unit: str) -> tuple[str, str, str]:
    if spread is None:
        return ("not known", "-", "-")
    return (f"{spread.mean:g} {unit}", f"{spread.min:g} {unit}", f"{spread.max:g} {unit}")
