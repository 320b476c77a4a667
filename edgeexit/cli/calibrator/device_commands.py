"""`edgeexit calibrator command`, `approve`, `revoke-device`, `clear-clone`, `set-aside`: a user acts on a device."""

from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.calibrator.broker_options import with_broker_options
from edgeexit.cli.calibrator.shared_options import DATABASE, DatabaseOption, current_user
from edgeexit.cli.private_keys import load_key
from edgeexit.console import console, next_step

if TYPE_CHECKING:
    from edgeexit.wire import BrokerConfig

DeviceArgument = Annotated[
    str, typer.Argument(help="Name of the device: DEVICE, SHARD/DEVICE or FLEET/SHARD/DEVICE.", metavar="DEVICE")
]


class Action(str, Enum):
    """The commands that a device accepts."""

    REPORT = "report"
    PROFILE = "profile"


@with_broker_options
def command_command(
    broker: "BrokerConfig",
    action: Annotated[Action, typer.Argument(help="The command to send.")],
    fleet: Annotated[str, typer.Option(help="The device's fleet.")],
    shard: Annotated[str, typer.Option(help="The device's shard.")],
    device: Annotated[str, typer.Option(help="The device's name.")],
    key: Annotated[
        list[Path],
        typer.Option(help="Private key of an operator, which the device trusts for commands. May be repeated."),
    ],
) -> None:
    """Request a report or a latency profile from one device now.

    The command is signed, and valid only for the agent that runs on the device now. It expires after 60 s. A device
    limits how often it executes commands; its log names the commands that it does not execute.

    If the broker uses the common name of a certificate as client id, do not use the certificate of the running
    calibrator: the broker would disconnect the calibrator.

    Example: `edgeexit calibrator command report --fleet shop --shard s0 --device camera-1 --key operator.key`
    """
    from edgeexit_calibration import send_command

    from edgeexit.wire import DeviceAddress

    keys = [load_key(path) for path in key]
    send_command(broker, DeviceAddress(fleet, shard, device), action.value, keys=keys)
    console.print(f"requested a {action.value} from {fleet}/{shard}/{device}")
    next_step("edgeexit calibrator status")


def approve_command(
    device: DeviceArgument,
    key: Annotated[
        str | None,
        typer.Option(
            help="Id of the identity key, as `status` and `edgeexit keys identity` show it; or the public key itself."
        ),
    ] = None,
    database: DatabaseOption = DATABASE,
) -> None:
    """Enrol a device with its identity key, so that its audits are stored; also after its key has changed.

    Compare the id of the key with the one on the device before: whoever signs with it can steer the thresholds.

    Example: `edgeexit calibrator approve camera-1 --key 3f9a1c0b7d2e4f68`
    """
    from edgeexit_calibration import approve_device, open_database

    store = open_database(database, create=False)
    name, approved = approve_device(store, device, key, user=current_user(), now=datetime.now(timezone.utc))
    store.close()
    console.print(f"{name} is enrolled with key {approved}; its audits are stored from now on")
    next_step(f"edgeexit calibrator status --database {store.name}")


def revoke_device_command(device: DeviceArgument, database: DatabaseOption = DATABASE) -> None:
    """Store no more reports and audits of a device, e.g. because it was stolen, until it is approved again.

    Also revoke its certificate at the broker, if it has one.

    Example: `edgeexit calibrator revoke-device camera-1`
    """
    from edgeexit_calibration import open_database, revoke_device

    store = open_database(database, create=False)
    name = revoke_device(store, device, user=current_user(), now=datetime.now(timezone.utc))
    store.close()
    console.print(f"{name} is revoked; its reports and audits are refused from now on")
    next_step(f"edgeexit calibrator approve {name} --database {store.name} stores them again")


def clear_clone_command(device: DeviceArgument, database: DatabaseOption = DATABASE) -> None:
    """Mark a clone as resolved, after one of the two devices got a name of its own or was removed.

    Until then, what arrives under this name is stored and shown, but in no figure and no guarantee of its cohort.

    Example: `edgeexit calibrator clear-clone camera-1`
    """
    from edgeexit_calibration import clear_device_clone, open_database

    store = open_database(database, create=False)
    name = clear_device_clone(store, device, user=current_user(), now=datetime.now(timezone.utc))
    store.close()
    console.print(f"{name}: the clone is marked as resolved, and the device counts again until one is noticed")
    next_step(f"edgeexit calibrator status --database {store.name}")


def set_aside_command(
    device: DeviceArgument,
    back: Annotated[bool, typer.Option("--back", help="Let its audits count again.")] = False,
    database: DatabaseOption = DATABASE,
) -> None:
    """Leave the audits of a device out of the certificates and alarms of its cohort, e.g. while its sensor is broken.

    They are still stored. The guarantee is then that of the other devices. The calibrator sets devices aside by itself
    if their loss is far above that of the others, but none that a user has taken back with --back.

    Example: `edgeexit calibrator set-aside camera-1`
    """
    from edgeexit_calibration import open_database, set_device_aside, take_device_back

    store = open_database(database, create=False)
    action = take_device_back if back else set_device_aside
    name = action(store, device, user=current_user(), now=datetime.now(timezone.utc))
    store.close()
    if back:
        console.print(f"{name} counts again: its audits are part of the certificates and alarms of its cohort")
        next_step(f"edgeexit calibrator status --database {store.name}")
    else:
        console.print(f"{name} is set aside: its audits are stored, but count in no certificate and no alarm")
        next_step(f"edgeexit calibrator set-aside {name} --back --database {store.name} lets them count again")
