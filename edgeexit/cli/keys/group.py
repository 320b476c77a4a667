"""The group `edgeexit keys` and its commands."""

import typer

from edgeexit.cli.keys.certificates import (
    broker_command,
    ca_command,
    calibrator_command,
    crl_command,
    device_command,
    list_command,
    operator_command,
    renew_command,
)
from edgeexit.cli.keys.fleet import fleet_command
from edgeexit.cli.keys.identity import identity_command
from edgeexit.cli.keys.key_sets import set_app
from edgeexit.cli.keys.revocation import disconnect_command, revoke_command

keys_app = typer.Typer(
    name="keys",
    help=(
        "Keys and certificates of a fleet: a certificate authority (CA) with mutual TLS for a trial fleet, and signed "
        "key sets, which say what devices trust.\n\n"
        "Example: `edgeexit keys fleet shop-keys --fleet shop --devices 3 --host broker.example`"
    ),
    no_args_is_help=True,
)
keys_app.command("fleet")(fleet_command)
keys_app.command("ca")(ca_command)
keys_app.command("broker")(broker_command)
keys_app.command("device")(device_command)
keys_app.command("calibrator")(calibrator_command)
keys_app.command("operator")(operator_command)
keys_app.command("list")(list_command)
keys_app.command("renew")(renew_command)
keys_app.command("revoke")(revoke_command)
keys_app.command("disconnect")(disconnect_command)
keys_app.command("crl")(crl_command)
keys_app.command("identity")(identity_command)
keys_app.add_typer(set_app, name="set")
