"""`edgeexit keygen` and `edgeexit sign`: create a key pair, and sign a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.cli.private_keys import PASSPHRASE, PASSPHRASE_FILE, load_key, read_passphrase
from edgeexit.console import console, next_step, printable


def keygen_command(
    private_key: Annotated[
        Path, typer.Argument(help="Where to write the private key; the public key gets the suffix .pub.")
    ],
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help=f"Encrypt the private key with a passphrase, which is asked for, or read from {PASSPHRASE} or from "
            f"the file that {PASSPHRASE_FILE} names. Commands that use the key get it in the same way.",
        ),
    ] = False,
) -> None:
    """Create an Ed25519 key pair: the private key for the calibrator or for releases, the public key for the devices.

    Other users must not be able to read a private key (mode 0600); commands refuse it otherwise.

    Example: `edgeexit keygen calibrator.key --passphrase`
    """
    from edgeexit.errors import SignatureError
    from edgeexit.signing import generate_key, key_id, load_public_key

    try:
        public_key = generate_key(
            private_key, passphrase=read_passphrase(private_key, confirm=True) if passphrase else None
        )
    except OSError as error:
        raise SignatureError(f"key '{private_key}' cannot be written: {error.strerror}") from error
    identity = key_id(load_public_key(public_key))
    secret = "encrypted" if passphrase else "keep it secret"
    console.print(printable(f"private key {private_key} ({secret}), public key {public_key}, id {identity}"))
    next_step(f'set trusted_keys = ["{public_key}"] in the configuration of the agents')


def sign_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    key: Annotated[list[Path], typer.Option(help="Private key (PEM), created by `edgeexit keygen`. Repeatable.")],
) -> None:
    """Sign the manifest, the policy and the latency profile of a bundle. Sign again after each change of one of them.

    Devices can require the signatures of several keys (`edgeexit keys set create --bundle-threshold`): give them all.

    Example: `edgeexit sign quickstart/bundle --key quickstart/calibrator.key`
    """
    from edgeexit.bundle import Bundle

    opened = Bundle.open(bundle)
    opened.sign(*(load_key(path) for path in key))
    parts = ["manifest", *(["policy"] if opened.policy() else []), *(["profile"] if opened.has_signed_profile else [])]
    console.print(printable(f"signed {', '.join(parts)} of {bundle}"))
    next_step(f"edgeexit inspect {bundle} --trust {key[0].with_suffix('.pub')}")
