"""The commands of `edgeexit calibrator`."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeexit.cli.calibrator import rows
from edgeexit.cli.calibrator.broker_options import with_broker_options
from edgeexit.cli.fit_goals import checked_goal
from edgeexit.cli.private_keys import load_key
from edgeexit.cli.rejected_profile import rejected_profile
from edgeexit.console import console, next_step, print_json, print_table, printable, warn
from edgeexit.formatting import percent

if TYPE_CHECKING:
    from edgeexit_calibration import CohortView, Database, RegistrationResult

    from edgeexit.wire import BrokerConfig

calibrator_app = typer.Typer(
    name="calibrator",
    help="The cloud service: stores the reports of a fleet, detects drift, refits policies and publishes them.",
    no_args_is_help=True,
)

DatabaseOption = Annotated[str, typer.Option(help="SQLite file, or an SQLAlchemy database URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
_DATABASE = "sqlite:///calibrator.sqlite"
_BUSY_TIMEOUT_S = 2.0  # short, because the service retries, and must stop quickly after SIGTERM


class Action(str, Enum):
    """The commands that a device accepts."""

    REPORT = "report"
    PROFILE = "profile"


@calibrator_app.command("register")
def register_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle; it must contain a policy.")],
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")],
    cohort: Annotated[str, typer.Option(help="Name of the cohort, as in the configuration of its devices.")],
    max_risk: Annotated[
        float, typer.Option(help="Maximum fraction of predictions that may differ from the final exit's.")
    ] = 0.05,
    delta: Annotated[float, typer.Option(help="Probability with which the certificate may be wrong.")] = 0.1,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take the costs from the profile even if it is invalid (the machine was busy)."),
    ] = False,
    trust: Annotated[
        list[Path] | None,
        typer.Option(help="Public key; the bundle must be signed by one of the keys. May be repeated."),
    ] = None,
    database: DatabaseOption = _DATABASE,
) -> None:
    """Register a cohort, so that the calibrator publishes, watches and refits its policy.

    Registering a cohort again changes its maximum risk. If the bundle has a new policy, it becomes the next revision.

    Example: `edgeexit calibrator register quickstart/bundle --fleet shop --cohort cameras --max-risk 0.05`
    """
    from edgeexit_calibration import open_database, register

    from edgeexit.bundle import Bundle
    from edgeexit.fitting import MaxRisk
    from edgeexit.signing import load_public_key

    checked_goal("--max-risk, --delta", MaxRisk(risk=max_risk, delta=delta))
    opened = Bundle.open(bundle, trusted_keys=[load_public_key(path) for path in trust or ()])
    costs = opened.costs(force=force)
    if trust and costs.unit == "ms" and opened.has_unsigned_profile:
        warn(f"the costs are from profile.json, which is not signed; to sign it: edgeexit sign {bundle} --key KEY")
    store = open_database(database)
    result = register(store, opened, fleet=fleet, cohort=cohort, risk=max_risk, delta=delta, user=_user(), costs=costs)
    store.close()
    if costs.rejected:
        warn(f"{rejected_profile(bundle, costs)}. Costs are multiply-accumulates")
    change = "new revision" if result.is_new_revision else "unchanged revision"
    console.print(
        f"registered {printable(opened.manifest.model)} for {result.cohort}: "
        f"maximum disagreement {percent(max_risk)} with probability {100 * (1 - delta):g} %; {change} {result.revision}"
    )
    _warn_about_policy(result, max_risk)
    next_step(f"edgeexit calibrator run --fleet {fleet} --database {store.name} --key calibrator.key")


@calibrator_app.command("run")
@with_broker_options
def run_command(
    broker: "BrokerConfig",
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")],
    key: Annotated[Path, typer.Option(help="Private key that signs policies; devices trust its public key.")],
    database: DatabaseOption = _DATABASE,
    check_interval: Annotated[float, typer.Option(help="Seconds between two checks of every cohort.", min=0.1)] = 5.0,
    min_audits: Annotated[
        int | None,
        typer.Option(
            help="Audits since the drift began that a refit waits for; default: twice the minimum for a certificate.",
            min=1,
        ),
    ] = None,
) -> None:
    """Run the service: store messages, watch every registered cohort, refit and publish, until SIGTERM or Ctrl-C.

    Example: `edgeexit calibrator run --fleet shop --key calibrator.key --broker mqtt://127.0.0.1:1883`
    """
    import logging
    import signal
    import threading

    from edgeexit_calibration import CalibratorService, ServiceConfig, cohorts, open_database

    from edgeexit.errors import SignatureError
    from edgeexit.wire import check_name

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not key.is_file():
        raise SignatureError(f"private key '{key}' does not exist; create one with `edgeexit keygen {key}`")
    config = ServiceConfig(
        fleet=check_name("fleet", fleet), broker=broker, check_interval_s=check_interval, min_audits=min_audits
    )
    private_key = load_key(key)
    store = open_database(database, busy_timeout_s=_BUSY_TIMEOUT_S)
    if not cohorts(store, fleet=fleet):
        warn(f"fleet '{fleet}' has no cohort in {store.name}; register one with `edgeexit calibrator register`")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    CalibratorService(store, config, private_key).run(stop)
    store.close()
    next_step(f"edgeexit calibrator status --database {store.name}")


@calibrator_app.command("status")
def status_command(database: DatabaseOption = _DATABASE, as_json: JsonOption = False) -> None:
    """Show devices and cohorts: revision, agreement with the final exit, exit mix, latency.

    Example: `edgeexit calibrator status --database calibrator.sqlite`
    """
    from edgeexit_calibration import cohorts, devices, open_database

    store = open_database(database, create=False)
    all_devices, statuses = devices(store), [_cohort_status(store, cohort) for cohort in cohorts(store)]
    store.close()
    if as_json:
        print_json({"devices": all_devices, "cohorts": statuses})
        return
    print_table("Devices", rows.DEVICE_COLUMNS, [rows.device_cells(device) for device in all_devices])
    print_table("Cohorts", rows.COHORT_COLUMNS, [rows.cohort_cells(status["cohort"]) for status in statuses])
    print_table("Current revisions", rows.METRIC_COLUMNS, [rows.metric_cells(status) for status in statuses])
    next_step(f"edgeexit calibrator history --database {store.name}")


@calibrator_app.command("history")
def history_command(database: DatabaseOption = _DATABASE, as_json: JsonOption = False) -> None:
    """Show all policy revisions and events of every cohort: when, by whom, why, and with which certificate.

    Example: `edgeexit calibrator history --database calibrator.sqlite`
    """
    from edgeexit_calibration import cohorts, events, open_database, policy_history

    store = open_database(database, create=False)
    histories = [
        (cohort, policy_history(store, cohort.address), events(store, cohort.address)) for cohort in cohorts(store)
    ]
    store.close()
    if as_json:
        print_json(
            [{**cohort.address._asdict(), "policies": policies, "events": log} for cohort, policies, log in histories]
        )
        return
    for cohort, policies, log in histories:
        title = f"Policies of {cohort.address}"
        print_table(title, rows.POLICY_COLUMNS, [rows.policy_cells(policy) for policy in policies])
        print_table(f"Events of {cohort.address}", rows.EVENT_COLUMNS, [rows.event_cells(event) for event in log])
    next_step(f"edgeexit calibrator status --database {store.name}")


@calibrator_app.command("command")
@with_broker_options
def command_command(
    broker: "BrokerConfig",
    action: Annotated[Action, typer.Argument(help="The command to send.")],
    fleet: Annotated[str, typer.Option(help="The device's fleet.")],
    shard: Annotated[str, typer.Option(help="The device's shard.")],
    device: Annotated[str, typer.Option(help="The device's name.")],
) -> None:
    """Request a report or a latency profile from one device now; the request expires after 60 s.

    If the broker uses the common name of a certificate as client id, do not use the certificate of the running
    calibrator: the broker would disconnect the calibrator.

    Example: `edgeexit calibrator command report --fleet shop --shard s0 --device camera-1`
    """
    from edgeexit_calibration import send_command

    from edgeexit.wire import Command, DeviceAddress

    send_command(broker, DeviceAddress(fleet, shard, device), Command(action=action.value))
    console.print(f"requested a {action.value} from {fleet}/{shard}/{device}")
    next_step("edgeexit calibrator status")


def _warn_about_policy(result: "RegistrationResult", max_risk: float) -> None:
    """Warn if the bundle's policy has no certificate for the maximum risk, or if it cannot be refitted."""
    if result.certified_risk is None or result.certified_risk > max_risk:
        known = (
            "not certified" if result.certified_risk is None else f"certified for {percent(result.certified_risk)} only"
        )
        warn(
            f"the bundle's policy is {known}; it stays in use until audits show a disagreement above "
            f"{percent(max_risk)}"
        )
    if not result.refittable:
        warn(
            f"policy '{result.policy}' reads the probabilities of all classes, which audits do not contain; the "
            "calibrator watches it but cannot refit it. Fit another kind if you need refits, e.g. `--policy beem`"
        )


def _user() -> str:
    """Return the name of the current user for the audit log; a container may only have a number."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _cohort_status(store: "Database", cohort: "CohortView") -> dict[str, Any]:
    """Return a cohort and the metrics of its current revision; of all revisions if it is not registered."""
    from edgeexit_calibration import disagreement, exit_mix

    mix = exit_mix(store, cohort.address, revision=cohort.revision)
    return {
        "cohort": cohort,
        "disagreement": disagreement(store, cohort.address, revision=cohort.revision),
        "exit_mix": mix,
        "exit_rates": mix.rates,
    }
