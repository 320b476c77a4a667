"""`edgeexit keys ca | broker | device | calibrator | operator | list | renew | crl`: certificates of a fleet."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.cli.keys.options import FleetOption, FolderArgument, JsonOption, open_authority, print_certificates
from edgeexit.cli.private_keys import read_passphrase
from edgeexit.console import console, next_step, print_json, print_table, printable

_SOON_DAYS = 30
_WITHIN = Annotated[float, typer.Option("--within-days", help="What counts as soon, in days.", min=0)]


def ca_command(
    folder: FolderArgument,
    name: Annotated[str, typer.Option(help="Name of the authority in its certificate.")] = "EdgeExit trial fleet",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt the private key of the authority; see `edgeexit keygen`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a certificate authority (CA) for a trial fleet: EC P-256, valid for 10 years, with an empty CRL.

    An authority that exists is kept.

    Example: `edgeexit keys ca shop-keys`
    """
    with open_authority(folder, create=True) as authority:
        new = read_passphrase(folder / "ca" / "ca.key", confirm=True) if passphrase else None
        entry = authority.create(name, new_passphrase=new)
    print_certificates("Authority", [entry], as_json=as_json)
    if not as_json:
        next_step(f"edgeexit keys broker {folder} --host broker.example")


def broker_command(
    folder: FolderArgument,
    host: Annotated[list[str], typer.Option(help="Host name or IP address under which clients connect. Repeatable.")],
    as_json: JsonOption = False,
) -> None:
    """Create the key and the certificate of the broker, valid for a year, and the revocation list that it reads.

    Example: `edgeexit keys broker shop-keys --host broker.example --host 192.168.1.10`
    """
    with open_authority(folder) as authority:
        entry = authority.broker(host)
    print_certificates("Certificate", [entry], as_json=as_json)
    if not as_json:
        next_step(f"edgeexit keys device {folder} camera-1 camera-2")


def device_command(
    folder: FolderArgument,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of devices.")],
    as_json: JsonOption = False,
) -> None:
    """Create keys and certificates of devices, valid for a year. The common name is the name of the device.

    Certificates that exist are kept. To replace one, revoke it first.

    Example: `edgeexit keys device shop-keys camera-1 camera-2`
    """
    from edgeexit.pki.issued import check_device_name

    for name in names:
        check_device_name(name)
    with open_authority(folder) as authority:
        entries = [authority.device(name) for name in dict.fromkeys(names)]
    print_certificates("Certificates", entries, as_json=as_json)
    if not as_json:
        next_step(f"copy each folder below {folder / 'devices'} to its device; `edgeexit keys list {folder}`")


def calibrator_command(folder: FolderArgument, fleet: FleetOption, as_json: JsonOption = False) -> None:
    """Create the key and the certificate of a fleet's calibrator, valid for a year.

    Example: `edgeexit keys calibrator shop-keys --fleet shop`
    """
    with open_authority(folder) as authority:
        entry = authority.calibrator(fleet)
    print_certificates("Certificate", [entry], as_json=as_json)
    if not as_json:
        next_step(f"copy {folder / 'calibrator'} to the machine of the calibrator")


def operator_command(folder: FolderArgument, fleet: FleetOption, as_json: JsonOption = False) -> None:
    """Create the key and the certificate for those who send commands to devices, valid for a year.

    Example: `edgeexit keys operator shop-keys --fleet shop`
    """
    with open_authority(folder) as authority:
        entry = authority.operator(fleet)
    print_certificates("Certificate", [entry], as_json=as_json)
    if not as_json:
        next_step(f"copy {folder / 'operator'} to the machine from which commands are sent")


def list_command(folder: FolderArgument, within_days: _WITHIN = _SOON_DAYS, as_json: JsonOption = False) -> None:
    """Show which certificates are valid until when. The exit code is 1 if one ends within 30 days.

    Example: `edgeexit keys list shop-keys`
    """
    from edgeexit.pki.certificates import utc_now

    with open_authority(folder) as authority:
        entries = authority.certificates()
    now = utc_now()
    days = {entry.path or entry.name: (entry.ends - now).total_seconds() / 86400 for entry in entries}
    soon = [entry for entry in entries if days[entry.path or entry.name] <= within_days]
    if as_json:
        print_json({"certificates": entries, "ending": [entry.name for entry in soon]})
    else:
        rows = [
            (
                entry.name,
                entry.kind,
                f"{entry.ends:%Y-%m-%d}",
                f"{days[entry.path or entry.name]:.0f}" if entry.ends > now else "ended",
            )
            for entry in sorted(entries, key=lambda entry: entry.ends)
        ]
        print_table("Certificates", ("name", "kind", "valid until", "days"), rows)
        next_step(f"edgeexit keys renew {folder}" if soon else f"edgeexit keys revoke {folder} NAME")
    if soon:
        raise typer.Exit(1)


def renew_command(
    folder: FolderArgument,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="What to renew; default: what ends soon.")
    ] = None,
    within_days: _WITHIN = _SOON_DAYS,
    as_json: JsonOption = False,
) -> None:
    """Renew certificates and the revocation list that end within 30 days. Private keys stay, and are not needed here.

    Example: `edgeexit keys renew shop-keys`
    """
    with open_authority(folder) as authority:
        entries = authority.renew(names or (), within_days=within_days)
        if not names:
            entries += authority.renew_ending_crl(within_days=within_days)
    print_certificates("Renewed", entries, as_json=as_json)
    if not as_json:
        next_step(_after_renewal(folder) if entries else f"edgeexit keys list {folder}")


def crl_command(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Write the certificate revocation list (CRL) again, valid for a year. With a list that ended, no client connects.

    Example: `edgeexit keys crl shop-keys`
    """
    with open_authority(folder) as authority:
        entry = authority.renew_crl()
    if as_json:
        print_json(entry)
        return
    console.print(printable(f"revocation list {entry.path}, valid until {entry.ends:%Y-%m-%d}"))
    next_step(_after_renewal(folder))


def _after_renewal(folder: Path) -> str:
    return f"copy the files to where they are used ({folder / 'README.md'}), and reload the broker: kill -HUP PID"
