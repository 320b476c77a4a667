"""Arguments that several commands of `edgeexit keys` have, and how they print certificates."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.private_keys import read_passphrase
from edgeexit.console import print_json, print_table

if TYPE_CHECKING:
    from edgeexit.pki import AuthorityFolder, IssuedCertificate

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the fleet's keys.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
FleetOption = Annotated[str, typer.Option(help="Name of the fleet.")]


def open_authority(folder: Path, *, create: bool = False, passphrase: str | None = None) -> "AuthorityFolder":
    """Return the authority in a folder; the passphrase of its key is given, or from the environment or the terminal."""
    from edgeexit.pki import AuthorityFolder

    return AuthorityFolder(
        folder, create=create, passphrase=lambda: passphrase or read_passphrase(folder / "ca" / "ca.key")
    )


def print_certificates(title: str, entries: "Sequence[IssuedCertificate]", *, as_json: bool) -> None:
    """Print certificates as a table or as JSON."""
    if as_json:
        print_json(list(entries))
        return
    rows = [(entry.name, entry.kind, f"{entry.ends:%Y-%m-%d}", _status(entry), entry.path) for entry in entries]
    print_table(title, ("name", "kind", "valid until", "status", "file"), rows)


def _status(entry: "IssuedCertificate") -> str:
    if entry.is_revoked:
        return "revoked"
    return "new" if entry.is_new else "kept"
