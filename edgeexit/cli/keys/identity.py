"""`edgeexit keys identity`: the id of a device's identity key, for its approval."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.cli.keys.options import JsonOption
from edgeexit.console import console, next_step, print_json, printable


def identity_command(
    state_dir: Annotated[Path, typer.Argument(metavar="STATE_DIR", help="The agent's state_dir.")],
    as_json: JsonOption = False,
) -> None:
    """Show the id of a device's identity key, which signs its audits. Run it on the device, as the agent's user.

    With `edgeexit calibrator run --enrolment approve`, approve the device with this id.

    Example: `edgeexit keys identity /var/lib/edgeexit/state`
    """
    from edgeexit.agent.fleet_link.identity import read_identity
    from edgeexit.signing import key_id, public_key_from_text

    text = read_identity(state_dir)
    identity = key_id(public_key_from_text(text))
    if as_json:
        print_json({"key": text, "id": identity})
        return
    console.print(printable(f"identity key {identity} (public key {text})"))
    next_step(f"edgeexit calibrator approve DEVICE --key {identity}")
