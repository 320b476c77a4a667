"""`edgeexit keys identity`: the public identity key of a device, for its approval."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.cli.keys.options import JsonOption
from edgeexit.console import console, next_step, print_json, printable


def identity_command(
    state_dir: Annotated[Path, typer.Argument(metavar="STATE_DIR", help="The agent's state_dir.")],
    as_json: JsonOption = False,
) -> None:
    """Show the public identity key of a device, which signs its audits. Run it on the device, as the agent's user.

    Compare it with the key that the calibrator shows before you approve the device.

    Example: `edgeexit keys identity /var/lib/edgeexit/state`
    """
    from edgeexit.agent.identity import read_identity

    key = read_identity(state_dir)
    if as_json:
        print_json({"key": key})
        return
    console.print(printable(key))
    next_step("edgeexit calibrator status")
