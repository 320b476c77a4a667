"""`edgeexit keys fleet`: everything that a trial fleet needs, in one folder."""

from typing import Annotated

import typer

from edgeexit.cli.keys.options import FleetOption, FolderArgument, JsonOption, open_authority, print_certificates
from edgeexit.cli.private_keys import read_passphrase
from edgeexit.console import next_step, show_progress


def fleet_command(
    folder: FolderArgument,
    fleet: FleetOption,
    devices: Annotated[
        str, typer.Option(metavar="N|NAME,NAME...", help="Number of devices, or their names separated by commas.")
    ],
    host: Annotated[
        list[str], typer.Option(help="Host name or IP address of the broker; devices use the first one. Repeatable.")
    ],
    cohort: Annotated[str, typer.Option(help="Cohort of the devices.")] = "default",
    shard: Annotated[
        list[str] | None, typer.Option(help="Shards that the broker accepts; devices get the first one. Repeatable.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the broker.", min=1, max=65535)] = 8883,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase", help="Encrypt the private keys of the authority, root and bundles; see `edgeexit keygen`."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create all keys of a trial fleet: authority, broker, calibrator, operator, devices, and the signing keys.

    The folder also gets the configuration of a mosquitto broker with its access control list, the first key set, an
    agent.toml per device, and a README.md that says what to copy where. What exists is kept, so the same command
    with more devices adds these, and continues after an interruption.

    Example: `edgeexit keys fleet shop-keys --fleet shop --devices camera-1,camera-2 --host broker.example`
    """
    from edgeexit.pki import FleetPlan, create_fleet
    from edgeexit.pki.fleet_folder import device_names

    plan = FleetPlan(
        fleet=fleet,
        hosts=tuple(host),
        devices=device_names(devices),
        cohort=cohort,
        shards=tuple(shard or ("s0",)),
        port=port,
    )
    plan.check()
    new = read_passphrase(folder / "root" / "root.key", confirm=True) if passphrase else None
    with (
        open_authority(folder, create=True, passphrase=new) as authority,
        show_progress("devices", total=len(plan.devices)) as progress,
    ):
        entries = create_fleet(
            authority,
            plan,
            new_passphrase=new,
            passphrase=lambda: new or read_passphrase(folder / "root" / "root.key"),
            on_device=lambda: progress.advance(1),
        )
    print_certificates(f"Fleet {fleet}", entries, as_json=as_json)
    if not as_json:
        next_step(f"copy the folders as {folder / 'README.md'} says")
