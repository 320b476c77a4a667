"""`edgeexit calibrator run`: the service, until SIGTERM or Ctrl-C."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.calibrator.broker_options import with_broker_options
from edgeexit.cli.calibrator.shared_options import DATABASE, DatabaseOption
from edgeexit.cli.private_keys import load_key
from edgeexit.console import next_step, warn

if TYPE_CHECKING:
    import threading

    from edgeexit.wire import BrokerConfig

_BUSY_TIMEOUT_S = 2.0  # short, because the service retries, and must stop quickly after SIGTERM


class EnrolmentMode(str, Enum):
    """How the identity keys of devices are enrolled."""

    OPEN = "open"
    APPROVE = "approve"


@with_broker_options
def run_command(
    broker: "BrokerConfig",
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")],
    key: Annotated[
        list[Path],
        typer.Option(
            help="Private key that signs policies and heartbeats; devices trust its public key. Repeat it if devices "
            "require several signatures."
        ),
    ],
    key_set: Annotated[
        Path | None, typer.Option(help="File of the fleet's signed key sets, which is published to the devices.")
    ] = None,
    database: DatabaseOption = DATABASE,
    check_interval: Annotated[float, typer.Option(help="Seconds between two checks of every cohort.", min=0.1)] = 5.0,
    heartbeat_interval: Annotated[
        float, typer.Option(help="Seconds between two heartbeats, by which devices notice withheld policies.", min=1)
    ] = 300.0,
    enrolment: Annotated[
        EnrolmentMode,
        typer.Option(
            help="Whose audits are stored. open: the first key that signs for a device is pinned. approve: a user "
            "approves each device with `edgeexit calibrator approve`."
        ),
    ] = EnrolmentMode.OPEN,
    max_devices: Annotated[
        int, typer.Option(help="Maximum number of devices; messages of further ones are not stored.", min=1)
    ] = 100_000,
    messages_per_minute: Annotated[
        int, typer.Option(help="Messages per minute that each device may send on average.", min=1)
    ] = 600,
    tolerated_devices: Annotated[
        int,
        typer.Option(
            help="Devices of a cohort that may forge audits without breaking the guarantee; in a small cohort, only as "
            "many as are less than half of it.",
            min=0,
        ),
    ] = 1,
    max_changes_per_day: Annotated[
        int,
        typer.Option(
            help="Bolder policies that a cohort gets in a day; stepping back after an alarm has no limit.", min=0
        ),
    ] = 24,
    audit_fraction_after_alarm: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the samples that devices audit after an alarm, until there are enough audits for a new "
            "policy; 0: not more than usual. Default: five times as much as usual. Each device has a limit of its own.",
            min=0,
            max=1,
        ),
    ] = None,
    receive_maximum: Annotated[
        int,
        typer.Option(
            help="Messages that the broker sends on a connection before the first of them is stored.", min=1, max=65535
        ),
    ] = 4000,
    max_database_gb: Annotated[
        float | None,
        typer.Option(
            help="Maximum size of the database; beyond it, the oldest counts of devices, then the oldest audits are "
            "deleted. Default: no limit.",
            min=0.01,
        ),
    ] = None,
    retain_devices_days: Annotated[
        int, typer.Option(help="Days after which the counts of single devices are deleted.", min=1)
    ] = 400,
    retain_audits_days: Annotated[
        int, typer.Option(help="Days after which audits are deleted that no policy is based on.", min=1)
    ] = 400,
    retain_events_days: Annotated[
        int, typer.Option(help="Days after which events are deleted that are no decisions.", min=1)
    ] = 400,
    lease: Annotated[
        float,
        typer.Option(
            help="PostgreSQL: seconds without a sign of life after which other processes replace this one.", min=1
        ),
    ] = 15.0,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Serve the fleet although a calibrator with another database does, which then ends; also needed if "
            "that one has left its presence at the broker.",
        ),
    ] = False,
) -> None:
    """Run the service: store messages, watch all cohorts, adapt and publish policies, until SIGTERM or Ctrl-C.

    On PostgreSQL, run it several times, also on several machines: the processes share the shards of the fleet, and take
    over those of one that ends. On SQLite a second one is refused.

    Example: `edgeexit calibrator run --fleet shop --key calibrator.key --broker mqtt://127.0.0.1:1883`
    """
    import logging
    import threading

    from edgeexit_calibration import CalibratorService, Quotas, Retention, ServiceConfig, cohorts, open_database

    from edgeexit.errors import SignatureError
    from edgeexit.wire import check_name

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for path in key:
        if not path.is_file():
            raise SignatureError(f"private key '{path}' does not exist; create one with `edgeexit keygen {path}`")
    config = ServiceConfig(
        fleet=check_name("fleet", fleet),
        broker=broker,
        check_interval_s=check_interval,
        tolerated_devices=tolerated_devices,
        max_changes_per_day=max_changes_per_day,
        audit_fraction_after_alarm=audit_fraction_after_alarm,
        heartbeat_interval_s=heartbeat_interval,
        enrolment=enrolment.value,
        quotas=Quotas(max_devices=max_devices, messages_per_minute=messages_per_minute),
        key_set=key_set,
        max_unstored=receive_maximum,
        lease_s=lease,
        retention=Retention(
            device_days_days=retain_devices_days,
            samples_days=retain_audits_days,
            events_days=retain_events_days,
            max_bytes=None if max_database_gb is None else round(max_database_gb * 1e9),
        ),
        take_over=take_over,
    )
    private_keys = [load_key(path) for path in key]
    store = open_database(database, busy_timeout_s=_BUSY_TIMEOUT_S)
    service = CalibratorService(store, config, private_keys)
    if not cohorts(store, fleet=fleet):
        warn(f"fleet '{fleet}' has no cohort in {store.name}; register one with `edgeexit calibrator register`")
    stop = threading.Event()
    _stop_on_signals(stop)
    _collect_garbage_rarely()
    try:
        service.run(stop)
    finally:
        store.close()
    next_step(f"edgeexit calibrator status --database {store.name}")


def _collect_garbage_rarely() -> None:
    """Run the garbage collector less often: each message makes many short-lived objects, and few of them cycles."""
    import gc

    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _stop_on_signals(stop: "threading.Event") -> None:
    """Set `stop` at the first SIGTERM or Ctrl-C; the second one ends the process at once."""
    import signal

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
