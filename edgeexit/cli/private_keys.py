"""Private keys for commands: their passphrases, and what a command does with a signature that it would void."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from edgeexit.errors import ConfigError, SignatureError

if TYPE_CHECKING:
    from edgeexit.signing import PrivateKey

PASSPHRASE: Final = "EDGEEXIT_KEY_PASSPHRASE"  # noqa: S105 - the name of an environment variable
PASSPHRASE_FILE: Final = "EDGEEXIT_KEY_PASSPHRASE_FILE"  # noqa: S105
_MAX_BYTES: Final = 4096


def load_key(path: Path) -> "PrivateKey":
    """Read a private key; its passphrase, if it has one, comes from the environment or the terminal."""
    from edgeexit.signing import load_private_key

    return load_private_key(path, passphrase=lambda: read_passphrase(path))


def read_passphrase(key: Path, *, confirm: bool = False) -> str:
    """Return the passphrase of `key`: from the environment or, on a terminal, from the user; `confirm` asks twice.

    Raises SignatureError if there is neither, or if the file that the environment names cannot be read.
    """
    if (value := os.environ.get(PASSPHRASE)) is not None:
        return value
    if (file := os.environ.get(PASSPHRASE_FILE)) is not None:
        try:
            with Path(file).open(encoding="utf-8") as opened:
                return opened.read(_MAX_BYTES).removesuffix("\n")
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "it is not text in UTF-8"
            raise SignatureError(f"{PASSPHRASE_FILE} = '{file}' cannot be read: {reason}") from error
    if not sys.stdin.isatty():
        raise SignatureError(
            f"private key '{key}' needs a passphrase; set {PASSPHRASE_FILE} to a file that contains it, or {PASSPHRASE}"
        )
    return str(typer.prompt(f"Passphrase of {key}", hide_input=True, confirmation_prompt=confirm, err=True))


def key_for_signed(
    bundle: Path, what: str, key: Path | None, *, is_signed: bool, unsigned: bool
) -> "PrivateKey | None":
    """Return the key that signs what a command is going to write, or None.

    Raises ConfigError if `what` (e.g. "policy") is signed now, and the user has given neither a key to renew the
    signature nor `--unsigned`; call it before any work.
    """
    if key is not None and unsigned:
        raise ConfigError("--key signs and --unsigned does not; give one of the two")
    if is_signed and key is None and not unsigned:
        raise ConfigError(
            f"bundle '{bundle}' is signed, and a new {what} would void the signature; renew it with --key KEY, or give "
            "--unsigned to remove it"
        )
    return None if key is None else load_key(key)
