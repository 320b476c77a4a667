"""`edgeexit fleet simulate`: sends what a fleet would send, and compares it with the calibrator's database."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.calibrator.broker_options import with_broker_options
from edgeexit.cli.data_files import read_samples
from edgeexit.cli.fleet.simulate_summary import LoadLine, print_outcome
from edgeexit.console import print_json, show_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeexit.simulate import SimulatedModel
    from edgeexit.simulate.run import ReadTotals
    from edgeexit.wire import BrokerConfig

_DEFAULT_CONNECTIONS = 256
_SOME = 0.5
"""Rate of each event per minute with --all-events."""
_FEW = 6
"""Clones, and malicious devices, with --all-events: one of each kind."""


class MqttChoice(str, Enum):
    """Versions of MQTT."""

    V5 = "5"
    V311 = "3.1.1"


@with_broker_options
def simulate_command(
    broker: "BrokerConfig",
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle that the devices run.")],
    data: Annotated[Path, typer.Option(help="Samples (.npz) that the devices see; the bundle runs once on them.")],
    devices: Annotated[int, typer.Option(help="Number of devices.", min=1)] = 100,
    database: Annotated[
        str | None,
        typer.Option(help="Database of the calibrator (SQLite file or URL), to compare it with what was sent."),
    ] = None,
    fleet: Annotated[str, typer.Option(help="Name of the fleet, as the calibrator has it.")] = "simulated",
    cohort: Annotated[str, typer.Option(help="Cohort of the devices.")] = "simulated",
    prefix: Annotated[str, typer.Option(help="Begin of the names of the devices.")] = "sim",
    shards: Annotated[int, typer.Option(help="Number of shards of the topics.", min=1)] = 8,
    connections: Annotated[
        int | None,
        typer.Option(
            help="MQTT connections, each with many devices as a gateway has; default: one per device, at most 256.",
            min=1,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Reports per second of all devices together; 0: as fast as they are acknowledged. Default: see "
            "--interval.",
            min=0,
        ),
    ] = None,
    interval: Annotated[str, typer.Option(help="Time between two reports of a device, e.g. 60s.")] = "60s",
    duration: Annotated[
        str | None, typer.Option(help="Length of the load, e.g. 60s or 10m; default: until Ctrl-C.")
    ] = None,
    reports: Annotated[int | None, typer.Option(help="Number of reports after which the load ends.", min=1)] = None,
    samples_per_report: Annotated[
        int, typer.Option(help="Inferences of a device between two reports.", min=1, max=10_000)
    ] = 10,
    audit_fraction: Annotated[
        float, typer.Option(help="Probability with which a sample is audited.", min=0, max=1)
    ] = 0.01,
    in_flight: Annotated[
        int, typer.Option(help="Maximum number of messages that are not acknowledged.", min=1)
    ] = 10_000,
    resend: Annotated[str, typer.Option(help="Time after which an unanswered message is sent again.")] = "30s",
    settle: Annotated[str, typer.Option(help="Time to wait for the last acknowledgements.")] = "60s",
    drift: Annotated[
        str | None,
        typer.Option(
            metavar="KIND[:FRACTION]@TIME",
            help="From a time on, a fraction (default 0.5) of the samples is of one kind. hard: low scores at the "
            "first exit; disagreeing: another prediction than the final exit's (maps: in more places than on average).",
        ),
    ] = None,
    churn: Annotated[
        float, typer.Option(help="Fraction of the devices per minute that leave, while others join.", min=0)
    ] = 0.0,
    restarts: Annotated[float, typer.Option(help="Fraction of the agents per minute that restart.", min=0)] = 0.0,
    stragglers: Annotated[
        float,
        typer.Option(help="Fraction of the devices per minute that go offline for up to 10 s, then catch up.", min=0),
    ] = 0.0,
    clock_jumps: Annotated[
        float, typer.Option(help="Fraction of the devices per minute whose uptime jumps.", min=0)
    ] = 0.0,
    clones: Annotated[int, typer.Option(help="Further names that two agents use at the same time.", min=0)] = 0,
    malicious: Annotated[
        int,
        typer.Option(help="Further devices that send invalid, forged, impossible or too many messages.", min=0),
    ] = 0,
    all_events: Annotated[
        bool, typer.Option("--all-events", help="Let everything above but drift happen at moderate rates.")
    ] = False,
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(
            help="Public key of the calibrator; the devices then receive, verify and apply policies. May be repeated."
        ),
    ] = None,
    mqtt: Annotated[MqttChoice, typer.Option(help="Version of MQTT.")] = MqttChoice.V5,
    seed: Annotated[int, typer.Option(help="Seed of samples and identity keys.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Simulate a fleet: states, reports and signed audits of many devices, by the real protocol and policy.

    The bundle runs once on the data; each device draws its samples from the readouts. At the end the command waits
    until everything is acknowledged and, with --database, compares: nothing may be lost, double or wrong. The exit
    code is 1 if there is a difference. Ctrl-C ends the load, a second Ctrl-C the wait.

    Example: `edgeexit fleet simulate --bundle bundle --data test.npz --devices 10000 --rate 0 --duration 60s --database
    calibrator.sqlite`
    """
    from edgeexit.errors import ConfigError
    from edgeexit.key_set import TrustedKeys
    from edgeexit.signing import load_public_key
    from edgeexit.simulate import (
        BrokerAccess,
        FleetEvents,
        SimulationOptions,
        parse_drift,
        parse_duration,
        simulate_fleet,
    )
    from edgeexit.wire import check_name

    options = SimulationOptions(
        fleet=check_name("fleet", fleet),
        cohort=check_name("cohort", cohort),
        prefix=check_name("prefix", prefix),
        devices=devices,
        shards=shards,
        connections=min(devices, _DEFAULT_CONNECTIONS if connections is None else connections),
        rate=rate,
        interval_s=parse_duration("--interval", interval),
        duration_s=None if duration is None else parse_duration("--duration", duration),
        reports=reports,
        samples_per_report=samples_per_report,
        audit_fraction=audit_fraction,
        in_flight=in_flight,
        resend_s=parse_duration("--resend", resend),
        settle_s=parse_duration("--settle", settle),
        seed=seed,
        events=FleetEvents(
            drift=None if drift is None else parse_drift(drift),
            churn=churn or _SOME * all_events,
            restarts=restarts or _SOME * all_events,
            stragglers=stragglers or _SOME * all_events,
            clock_jumps=clock_jumps or _SOME * all_events,
            clones=clones or _FEW * all_events,
            malicious=malicious or _FEW * all_events,
        ),
    )
    if options.interval_s <= 0 or options.resend_s <= 0:
        raise ConfigError("--interval and --resend must be above 0 s")
    keys = None
    if trusted_key:
        keys = TrustedKeys.configured(fleet, trusted=[load_public_key(path) for path in trusted_key])
    read_totals, close = _open_totals(database, fleet)
    try:
        model = _model(bundle, data)
        with LoadLine() as line:
            outcome = simulate_fleet(
                options,
                model,
                BrokerAccess(broker, mqtt.value),
                keys=keys,
                read_totals=read_totals,
                on_progress=line.show,
                handle_signals=True,
            )
    finally:
        close()
    if as_json:
        print_json(outcome)
    else:
        print_outcome(outcome, options)
    if not outcome.is_exact:
        raise typer.Exit(1)


def _model(path: Path, data: Path) -> "SimulatedModel":
    """Run the bundle on the data to full depth."""
    from edgeexit.bundle import Bundle
    from edgeexit.recorded_readouts import record_readouts
    from edgeexit.runtime import full_model_policy
    from edgeexit.simulate import SimulatedModel, assumed_latency_ms

    opened = Bundle.open(path)
    manifest, costs, document = opened.manifest, opened.costs(), opened.policy()
    dataset = read_samples(data, manifest)
    with show_progress("recording readouts", total=len(dataset)) as progress:
        readouts = record_readouts(opened, dataset, costs.cumulative, progress=progress)
    return SimulatedModel(
        bundle=opened.digest,
        policy=full_model_policy(len(manifest.stages)) if document is None else document.policy,
        classes=manifest.classes,
        dataset=readouts,
        latency_ms=tuple(costs.cumulative) if costs.unit == "ms" else assumed_latency_ms(manifest.macs),
    )


def _open_totals(database: str | None, fleet: str) -> "tuple[ReadTotals | None, Callable[[], None]]":
    """Return a function that reads the fleet in the database, and one that closes it."""
    if database is None:
        return None, lambda: None
    from edgeexit_calibration import open_database
    from edgeexit_calibration.views.stored_totals import stored_fleet

    store = open_database(database, create=False)
    return lambda: stored_fleet(store, fleet), store.close
