"""`edgeexit calibrator`: register cohorts, run the service, show its database, decide about devices, send commands."""

from collections.abc import Callable

import typer

from edgeexit.cli.calibrator.bounds_command import bounds_command
from edgeexit.cli.calibrator.device_commands import (
    approve_command,
    clear_clone_command,
    command_command,
    revoke_device_command,
    set_aside_command,
)
from edgeexit.cli.calibrator.explain_command import explain_command
from edgeexit.cli.calibrator.list_commands import devices_command, trend_command
from edgeexit.cli.calibrator.register_command import register_command
from edgeexit.cli.calibrator.revision_commands import accept_revision_command
from edgeexit.cli.calibrator.run_command import run_command
from edgeexit.cli.calibrator.status_commands import history_command, status_command
from edgeexit.cli.calibrator.storage_commands import (
    backup_command,
    migrate_command,
    restore_command,
    vacuum_command,
)

__all__ = ["calibrator_app"]

calibrator_app = typer.Typer(
    name="calibrator",
    help="The cloud service: stores the reports of a fleet, detects drift, adapts policies and publishes them.",
    no_args_is_help=True,
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "register": register_command,
    "run": run_command,
    "status": status_command,
    "devices": devices_command,
    "trend": trend_command,
    "history": history_command,
    "explain": explain_command,
    "bounds": bounds_command,
    "approve": approve_command,
    "revoke-device": revoke_device_command,
    "clear-clone": clear_clone_command,
    "set-aside": set_aside_command,
    "accept-revision": accept_revision_command,
    "command": command_command,
    "backup": backup_command,
    "restore": restore_command,
    "migrate": migrate_command,
    "vacuum": vacuum_command,
}
for _name, _command in _COMMANDS.items():
    calibrator_app.command(_name)(_command)
