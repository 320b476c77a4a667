"""`edgeexit keys revoke` and `edgeexit keys disconnect`: a certificate that must not be used any more."""

from typing import Annotated

import typer

from edgeexit.cli.keys.options import FolderArgument, JsonOption, open_authority, print_certificates
from edgeexit.console import console, next_step, print_json, printable

_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Common name, e.g. that of a device.")]


def revoke_command(folder: FolderArgument, name: _NameArgument, as_json: JsonOption = False) -> None:
    """Revoke all certificates of a name: write the revocation list (CRL), and move the key and certificate away.

    The broker must get the list. A client that is connected stays connected until `edgeexit keys disconnect`.

    Example: `edgeexit keys revoke shop-keys camera-1`
    """
    with open_authority(folder) as authority:
        entries = authority.revoke(name)
    print_certificates("Revoked", entries, as_json=as_json)
    if not as_json:
        next_step(
            f"copy {folder / 'ca' / 'crl.pem'} to the broker, reload it (kill -HUP), then: "
            f"edgeexit keys disconnect {folder} {name} --broker mqtts://HOST:8883"
        )


def disconnect_command(
    folder: FolderArgument,
    name: _NameArgument,
    broker: Annotated[str, typer.Option(help="URL of the broker: mqtts://HOST[:PORT].")],
    hold_s: Annotated[
        float, typer.Option("--hold-s", help="Seconds to watch that the client does not return.", min=0)
    ] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """End the connection of a revoked client, because a broker looks into the revocation list only at connect.

    The command connects under the name of the client, with a certificate that is valid for 10 minutes, so that the
    broker closes the other connection. If the client returns, the broker has not loaded the list: then it is an error.

    Example: `edgeexit keys disconnect shop-keys camera-1 --broker mqtts://broker.example:8883`
    """
    from edgeexit.pki.disconnect import disconnect

    with open_authority(folder) as authority:
        disconnect(authority, name, url=broker, hold_s=hold_s)
    if as_json:
        print_json({"disconnected": name})
        return
    console.print(printable(f"{name} is disconnected, and did not return within {hold_s:g} s"))
    next_step(f"edgeexit keys list {folder}")
