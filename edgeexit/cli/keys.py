"""`edgeexit keygen` and `edgeexit sign`: create a key pair, and sign a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from edgeexit.console import console, next_step, printable


def keygen_command(
    private_key: Annotated[
        Path, typer.Argument(help="Where to write the private key; the public key gets the suffix .pub.")
    ],
) -> None:
    """Create an Ed25519 key pair: the private key for the calibrator, the public key for the devices.

    Example: `edgeexit keygen calibrator.key`
    """
    from edgeexit.errors import SignatureError
    from edgeexit.signing import generate_key, key_id, load_public_key

    try:
        public_key = generate_key(private_key)
    except OSError as error:
        raise SignatureError(f"key '{private_key}' cannot be written: {error.strerror}") from error
    identity = key_id(load_public_key(public_key))
    console.print(printable(f"private key {private_key} (keep it secret), public key {public_key}, id {identity}"))
    next_step(f'set trusted_keys = ["{public_key}"] in the configuration of the agents')


def sign_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    key: Annotated[Path, typer.Option(help="Private key (PEM), created by `edgeexit keygen`.")],
) -> None:
    """Sign the manifest and the policy of a bundle. Sign again after each change of one of them.

    Example: `edgeexit sign quickstart/bundle --key quickstart/calibrator.key`
    """
    from edgeexit.bundle import Bundle
    from edgeexit.signing import load_private_key

    opened = Bundle.open(bundle)
    opened.sign(load_private_key(key))
    console.print(f"signed {printable(bundle)}")
    next_step(f"edgeexit inspect {bundle} --trust {key.with_suffix('.pub')}")
