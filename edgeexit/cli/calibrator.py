"""`edgeexit calibrator`: register cohorts, run the calibrator, see what it knows and did, command a device."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeexit.console import next_step, print_json, print_table, warn
from edgeexit.formatting import milliseconds, percent

if TYPE_CHECKING:
    from edgeexit_calibration import CohortView, Database, DeviceView, Disagreement, PolicyView

    from edgeexit.wire import BrokerConfig

calibrator_app = typer.Typer(
    name="calibrator",
    help="The cloud side: store what the fleet reports, watch drift, refit and publish policies.",
    no_args_is_help=True,
)

DatabaseOption = Annotated[str, typer.Option(help="SQLite file, or a database URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
BrokerOption = Annotated[str, typer.Option(help="mqtt://HOST[:PORT], or mqtts:// for TLS.")]
BrokerCaOption = Annotated[str | None, typer.Option(help="PEM of the authority behind the broker.")]
BrokerCertificateOption = Annotated[str | None, typer.Option(help="PEM of this client's certificate.")]
BrokerKeyOption = Annotated[str | None, typer.Option(help="PEM of that certificate's key.")]
BrokerUsernameOption = Annotated[str | None, typer.Option(help="User name at the broker.")]
BrokerPasswordOption = Annotated[str | None, typer.Option(help="File whose first line is the password.")]
_DATABASE = "sqlite:///calibrator.sqlite"
_BROKER = "mqtt://127.0.0.1:1883"
_BUSY_TIMEOUT_S = 2.0  # ingest tries again anyway, and a stop must not wait longer


class Action(str, Enum):
    """What a device can be told to do now."""

    REPORT = "report"
    PROFILE = "profile"


@calibrator_app.command("register")
def register_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle, with the policy to begin with.")],
    fleet: Annotated[str, typer.Option(help="Whose devices.")],
    cohort: Annotated[str, typer.Option(help="Which of them: the label in their configuration.")],
    max_risk: Annotated[
        float, typer.Option(help="Largest share of answers that may differ from the final exit's.")
    ] = 0.05,
    delta: Annotated[float, typer.Option(help="Probability with which that bound may fail.")] = 0.1,
    database: DatabaseOption = _DATABASE,
) -> None:
    """Put the policy of a cohort into the calibrator's care; registering again changes the goal.

    Example: `edgeexit calibrator register quickstart/bundle --fleet shop --cohort cameras --max-risk 0.05`
    """
    from edgeexit_calibration import open_database, register

    from edgeexit.bundle import Bundle
    from edgeexit.console import console, printable

    opened = Bundle.open(bundle)
    store = open_database(database)
    registered = register(store, opened, fleet=fleet, cohort=cohort, risk=max_risk, delta=delta, who=_user())
    store.close()
    what = "new revision" if registered.is_new_revision else "unchanged revision"
    console.print(
        f"registered {printable(opened.manifest.model)} for {registered.cohort}: "
        f"disagreement at most {percent(max_risk)} with probability {1 - delta:.0%}; {what} {registered.revision}"
    )
    if registered.certified_risk is None or registered.certified_risk > max_risk:
        known = (
            "not certified"
            if registered.certified_risk is None
            else f"certified for {percent(registered.certified_risk)}"
        )
        warn(f"the bundle's own policy is {known}; it holds until audits show that it breaks {percent(max_risk)}")
    if not registered.refittable:
        warn(
            f"policy '{registered.policy}' reads the probabilities of all classes, which audits do not hold: it is "
            "watched and never fitted anew; fit another kind, e.g. --policy beem, for that"
        )
    next_step(f"edgeexit calibrator run --fleet {fleet} --database {store.name} --key calibrator.key")


@calibrator_app.command("run")
def run_command(
    fleet: Annotated[str, typer.Option(help="The fleet to look after.")],
    key: Annotated[Path, typer.Option(help="Private key that signs policies; the devices trust its public half.")],
    database: DatabaseOption = _DATABASE,
    broker: BrokerOption = _BROKER,
    check_interval: Annotated[float, typer.Option(help="Seconds between two looks at every cohort.", min=0.1)] = 5.0,
    min_audits: Annotated[
        int | None,
        typer.Option(help="Audits after a change that a refit waits for; default: twice what it needs.", min=1),
    ] = None,
    broker_ca: BrokerCaOption = None,
    broker_certificate: BrokerCertificateOption = None,
    broker_key: BrokerKeyOption = None,
    broker_username: BrokerUsernameOption = None,
    broker_password_file: BrokerPasswordOption = None,
) -> None:
    """Take in what the fleet sends, watch every registered cohort, refit and publish; until SIGTERM or Ctrl-C.

    Example: `edgeexit calibrator run --fleet shop --key calibrator.key --broker mqtt://127.0.0.1:1883`
    """
    import logging
    import signal
    import threading

    from edgeexit_calibration import CalibratorService, ServiceConfig, open_database

    from edgeexit.errors import SignatureError
    from edgeexit.signing import load_private_key
    from edgeexit.wire import check_name

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not key.is_file():
        raise SignatureError(f"private key '{key}' is not there; make one with `edgeexit keygen {key}`")
    line = _broker(broker, broker_ca, broker_certificate, broker_key, broker_username, broker_password_file)
    config = ServiceConfig(
        fleet=check_name("fleet", fleet), broker=line, check_interval_s=check_interval, min_audits=min_audits
    )
    private_key = load_private_key(key)
    store = open_database(database, busy_timeout_s=_BUSY_TIMEOUT_S)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    CalibratorService(store, config, private_key).run(stop)
    store.close()
    next_step(f"edgeexit calibrator status --database {store.name}")


@calibrator_app.command("status")
def status_command(database: DatabaseOption = _DATABASE, as_json: JsonOption = False) -> None:
    """Show devices and cohorts: revision, agreement with the final exit, exit mix.

    Example: `edgeexit calibrator status --database calibrator.sqlite`
    """
    from edgeexit_calibration import cohorts, devices, open_database

    store = open_database(database, create=False)
    found_devices, found_cohorts = devices(store), cohorts(store)
    rows = [_cohort_row(store, cohort) for cohort in found_cohorts]
    store.close()
    if as_json:
        print_json({"devices": found_devices, "cohorts": rows})
        return
    print_table(
        "Devices",
        ("device", "online", "bundle", "cohort", "revision", "policy", "last news (UTC)", "refused"),
        [_device_cells(device) for device in found_devices],
    )
    print_table(
        "Cohorts",
        ("cohort", "devices", "up to date", "revision", "policy", "condition"),
        [_cohort_cells(row["cohort"]) for row in rows],
    )
    print_table(
        "Current revisions",
        ("cohort", "goal", "agreement, 95 % interval", "audits", "exit mix", "latency"),
        [_measured_cells(row) for row in rows],
    )
    next_step(f"edgeexit calibrator history --database {store.name}")


@calibrator_app.command("history")
def history_command(database: DatabaseOption = _DATABASE, as_json: JsonOption = False) -> None:
    """Show every revision of every cohort's policy: when, by whom, why, and with which certificate.

    Example: `edgeexit calibrator history --database calibrator.sqlite`
    """
    from edgeexit_calibration import cohorts, events, open_database, policy_history

    store = open_database(database, create=False)
    found = [
        (cohort, policy_history(store, cohort.address), events(store, cohort.address)) for cohort in cohorts(store)
    ]
    store.close()
    if as_json:
        print_json(
            [
                {
                    "fleet": cohort.fleet,
                    "bundle": cohort.bundle,
                    "cohort": cohort.cohort,
                    "policies": policies,
                    "events": log,
                }
                for cohort, policies, log in found
            ]
        )
        return
    for cohort, policies, log in found:
        print_table(
            f"Policies of {cohort.address}",
            ("revision", "since (UTC)", "by", "policy", "thresholds", "certificate", "why"),
            [_policy_cells(policy) for policy in policies],
        )
        print_table(
            f"Events of {cohort.address}",
            ("what", "when (UTC)", "by", "details"),
            [
                (
                    event.what,
                    f"{event.at:%Y-%m-%d %H:%M:%S}",
                    event.who,
                    ", ".join(f"{name} {value}" for name, value in event.details.items()),
                )
                for event in log
            ],
        )
    next_step(f"edgeexit calibrator status --database {store.name}")


@calibrator_app.command("command")
def command_command(
    action: Annotated[Action, typer.Argument(help="What to do.")],
    fleet: Annotated[str, typer.Option(help="The device's fleet.")],
    shard: Annotated[str, typer.Option(help="Its shard.")],
    device: Annotated[str, typer.Option(help="Its name.")],
    broker: BrokerOption = _BROKER,
    broker_ca: BrokerCaOption = None,
    broker_certificate: BrokerCertificateOption = None,
    broker_key: BrokerKeyOption = None,
    broker_username: BrokerUsernameOption = None,
    broker_password_file: BrokerPasswordOption = None,
) -> None:
    """Tell one device to report or to measure its latency now; away, it has 60 s to come back.

    Where the broker takes a certificate's name as client id, give another than that of a running calibrator.

    Example: `edgeexit calibrator command report --fleet shop --shard s0 --device camera-1`
    """
    from edgeexit_calibration import send_command

    from edgeexit.console import console
    from edgeexit.wire import Command, DeviceAddress

    line = _broker(broker, broker_ca, broker_certificate, broker_key, broker_username, broker_password_file)
    send_command(line, DeviceAddress(fleet, shard, device), Command(action=action.value))
    console.print(f"asked {fleet}/{shard}/{device} for a {action.value}")
    next_step("edgeexit calibrator status")


def _broker(
    url: str, ca: str | None, certificate: str | None, key: str | None, username: str | None, password: str | None
) -> "BrokerConfig":
    """Return where the broker is; a wrong URL is said at once. Raises ConfigError."""
    from edgeexit.errors import ConfigError
    from edgeexit.wire import BrokerConfig

    try:
        config = BrokerConfig(
            url=url,
            ca_file=ca,
            certificate_file=certificate,
            key_file=key,
            username=username,
            password_file=password,
        )
    except ValueError as error:
        raise ConfigError(f"--broker: {error}") from error
    config.endpoint()
    return config


def _user() -> str:
    """Return who runs this command, for the audit log; in a container that may be a number."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _cohort_row(store: "Database", cohort: "CohortView") -> dict[str, Any]:
    """Return a cohort with what its current revision does; all revisions where none was registered."""
    from edgeexit_calibration import disagreement, exit_mix

    return {
        "cohort": cohort,
        "disagreement": disagreement(store, cohort.address, revision=cohort.revision),
        "exit_mix": (mix := exit_mix(store, cohort.address, revision=cohort.revision)),
        "exit_rates": mix.rates,
    }


def _device_cells(device: "DeviceView") -> Sequence[str]:
    return (
        f"{device.fleet}/{device.shard}/{device.device}",
        {True: "yes", False: "no", None: "?"}[device.online],
        (device.bundle or "?")[:12],
        device.cohort or "?",
        "?" if device.revision is None else str(device.revision),
        device.policy or "?",
        f"{device.last_seen:%Y-%m-%d %H:%M:%S}",
        device.rejected or "",
    )


def _cohort_cells(cohort: "CohortView") -> Sequence[str]:
    registered = cohort.revision is not None
    return (
        str(cohort.address),
        str(cohort.devices),
        str(cohort.up_to_date) if registered else "-",
        str(cohort.revision) if registered else "-",
        cohort.policy or "-",
        (cohort.condition or "watched") if registered else "not registered",
    )


def _measured_cells(row: dict[str, Any]) -> Sequence[str]:
    cohort: CohortView = row["cohort"]
    measured: Disagreement = row["disagreement"]
    agreement = "-"
    if measured.observed is not None:
        agreement = f"{percent(1 - measured.observed)} [{percent(1 - measured.high)}, {percent(1 - measured.low)}]"
    return (
        str(cohort.address),
        "-" if cohort.risk is None else percent(1 - cohort.risk),
        agreement,
        str(measured.samples),
        " / ".join(percent(rate) for rate in row["exit_rates"] or ()) or "-",
        milliseconds(row["exit_mix"].mean_latency_ms),
    )


def _policy_cells(policy: "PolicyView") -> Sequence[str]:
    certificate = policy.certificate
    return (
        str(policy.revision),
        f"{policy.at:%Y-%m-%d %H:%M:%S}" + ("" if policy.published_at else " (not published yet)"),
        policy.who,
        policy.policy,
        " ".join("never" if threshold is None else f"{threshold:.4f}" for threshold in policy.thresholds),
        "none"
        if certificate is None
        else f"<= {percent(certificate.risk)} at {1 - certificate.delta:.0%}, n = {certificate.samples}",
        policy.reason,
    )
