"""`edgeexit keys set`: create, sign and show the key sets of a fleet, which say what its devices trust."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from edgeexit.cli.keys.options import JsonOption
from edgeexit.cli.private_keys import load_key
from edgeexit.console import console, next_step, print_json, print_table, printable, warn
from edgeexit.errors import ConfigError

if TYPE_CHECKING:
    from edgeexit.key_set import KeySet, RoleKeys
    from edgeexit.signing import PrivateKey

set_app = typer.Typer(
    name="set",
    help=(
        "Key sets: signed documents that name the keys devices trust for key sets (root), policies, bundles, commands. "
        "A new set is accepted if enough of the old root keys and of the new ones have signed it.\n\n"
        "Example: `edgeexit keys set create next.json --follows key_set.json --policy new-policy.pub`"
    ),
    no_args_is_help=True,
)
_FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="File of key sets.")]
_KeysOption = Annotated[list[Path] | None, typer.Option(help="Public key with this role. Repeatable.")]
_ThresholdOption = Annotated[int | None, typer.Option(min=1, help="How many keys of the role must sign.")]


@set_app.command("create")
def create_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to create.")],
    fleet: Annotated[str | None, typer.Option(help="Name of the fleet; default: that of --follows.")] = None,
    follows: Annotated[
        Path | None, typer.Option(help="File of the present key sets; roles that are not given stay as they are there.")
    ] = None,
    root: _KeysOption = None,
    policy: _KeysOption = None,
    bundle: _KeysOption = None,
    command: _KeysOption = None,
    root_threshold: _ThresholdOption = None,
    policy_threshold: _ThresholdOption = None,
    bundle_threshold: _ThresholdOption = None,
    command_threshold: _ThresholdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key set without signatures. The keys that are given replace all keys of their role.

    Example: `edgeexit keys set create next.json --follows key_set.json --policy new-policy.pub`
    """
    from edgeexit.errors import SignatureError
    from edgeexit.key_set import (
        KEY_SET_TYPE,
        MAX_SETS,
        encode_history,
        encode_key_set,
        newest_key_set,
        shortest_history,
    )
    from edgeexit.signing import sign

    if os.path.lexists(file):
        raise ConfigError(f"'{file}' exists; give another name, files of key sets are not overwritten")
    envelopes: list[bytes] = []
    previous = None
    if follows is not None:
        history, envelopes = _read(follows)
        previous, signatures = newest_key_set(history)
        if not signatures:
            raise SignatureError(f"the last key set of '{follows}' is not signed; sign it, or follow an earlier file")
    given = {"root": root, "policy": policy, "bundle": bundle, "command": command}
    thresholds = (root_threshold, policy_threshold, bundle_threshold, command_threshold)
    document = _key_set(previous, fleet, given, dict(zip(given, thresholds, strict=True)))
    envelopes.append(sign(encode_key_set(document), payload_type=KEY_SET_TYPE, keys=[]))
    envelopes = shortest_history(envelopes)
    if len(envelopes) > MAX_SETS:
        raise SignatureError(
            f"the root keys in '{follows}' were replaced {MAX_SETS} times, and devices follow no more: deploy "
            "agent.toml with the newest root keys as trusted_keys, then follow only the last set: jq -c '.[-1:]' "
            f"{follows}"
        )
    _write(file, encode_history(envelopes))
    _print(document, 0, as_json=as_json)
    if not as_json:
        next_step(f"edgeexit keys set sign {file} --key root.key, with the root keys of the old set and of this one")


@set_app.command("sign")
def sign_set_command(
    file: _FileArgument,
    key: Annotated[list[Path], typer.Option(help="Private root key (PEM). Repeatable.")],
    as_json: JsonOption = False,
) -> None:
    """Add signatures to the last key set of a file. People with different keys can do this one after the other.

    Example: `edgeexit keys set sign next.json --key root.key`
    """
    from edgeexit.key_set import KEY_SET_TYPE, encode_history, newest_key_set
    from edgeexit.signing import add_signatures

    _, envelopes = _read(file)
    keys = {path: load_key(path) for path in key}
    _check_root(file, envelopes, keys)
    envelopes[-1] = add_signatures(envelopes[-1], payload_type=KEY_SET_TYPE, keys=list(keys.values()))
    history = encode_history(envelopes)
    _write(file, history)
    _print(*newest_key_set(history), as_json=as_json)
    if not as_json:
        next_step(f"edgeexit keys set show {file} --trust root.pub, with the root keys that devices trust now")


@set_app.command("show")
def show_command(
    file: _FileArgument,
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            help="Public key in the trusted_keys of devices: fail unless devices accept the file. Repeatable."
        ),
    ] = None,
    policy_threshold: Annotated[int, typer.Option(min=1, help="The policy_threshold of the devices.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show the last key set of a file; with --trust, check that devices which trust these keys accept it.

    Example: `edgeexit keys set show key_set.json --trust root.pub`
    """
    from edgeexit.key_set import TrustedKeys, newest_key_set
    from edgeexit.signing import load_public_key

    history, _ = _read(file)
    document, signatures = newest_key_set(history)
    if trust:
        configured = TrustedKeys.configured(
            document.fleet, trusted=[load_public_key(path) for path in trust], policy_threshold=policy_threshold
        )
        configured.updated(history)
    _print(document, signatures, as_json=as_json)
    if not as_json:
        if trust:
            console.print("devices that trust these keys accept this key set")
        next_step(f"edgeexit calibrator run --fleet {document.fleet} --key-set {file} ...")


def _key_set(
    previous: "KeySet | None",
    fleet: str | None,
    given: dict[str, list[Path] | None],
    thresholds: dict[str, int | None],
) -> "KeySet":
    """Return the set that follows `previous`. Raises ConfigError if something is missing or does not fit."""
    import msgspec

    from edgeexit.key_set import KeySet, Role

    fleet = fleet or (previous.fleet if previous is not None else None)
    if fleet is None:
        raise ConfigError("a first key set needs --fleet")
    roles: dict[str, Any] = {}
    for role in get_args(Role):
        entry = _role(previous.roles.get(role) if previous is not None else None, given[role], thresholds[role])
        if entry is not None:
            roles[role] = entry
    try:
        return msgspec.convert(
            {"fleet": fleet, "version": 1 if previous is None else previous.version + 1, "roles": roles}, KeySet
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"key set: {error}") from error


def _role(previous: "RoleKeys | None", paths: Sequence[Path] | None, threshold: int | None) -> dict[str, Any] | None:
    from edgeexit.signing import load_public_key, public_key_text

    keys = tuple(public_key_text(load_public_key(path)) for path in paths or ()) or (previous.keys if previous else ())
    if not keys:
        if threshold is not None:
            raise ConfigError("a threshold is given for a role without keys")
        return None
    return {"keys": keys, "threshold": threshold or (previous.threshold if previous else 1)}


def _print(document: "KeySet", signatures: int, *, as_json: bool) -> None:
    from edgeexit.key_set import Role
    from edgeexit.signing import key_id, public_key_from_text

    if as_json:
        print_json({"key_set": document, "signatures": signatures})
        return
    rows = [
        (role, f"{entry.threshold} of {len(entry.keys)}", " ".join(key_id(public_key_from_text(k)) for k in entry.keys))
        for role in get_args(Role)
        if (entry := document.roles.get(role)) is not None
    ]
    title = f"Key set {document.version} of fleet {document.fleet}, {signatures} signatures"
    print_table(title, ("role", "must sign", "ids of the keys"), rows)
    console.print(printable("the id of a .pub file is printed by `edgeexit keygen`"))


def _check_root(file: Path, envelopes: Sequence[bytes], keys: "dict[Path, PrivateKey]") -> None:
    """Raise SignatureError for a key whose signature no device would count.

    That is a key that is a root key neither in the last set nor in the one before. Before the first set, the root keys
    are those in the configuration of the devices, which are not known here.
    """
    from edgeexit.errors import SignatureError
    from edgeexit.key_set import encode_history, newest_key_set
    from edgeexit.signing import public_key_text

    sets = [newest_key_set(encode_history([envelope]))[0] for envelope in envelopes[-2:]]
    root = {text for one in sets for text in one.roles["root"].keys}
    for path, key in keys.items():
        if public_key_text(key.public_key()) in root:
            continue
        if len(sets) > 1:
            raise SignatureError(
                f"'{path}' is a root key neither in the last key set of '{file}' nor in the one before, so devices "
                "would not count its signature; give a root key"
            )
        warn(f"'{path}' is no root key in '{file}'; its signature counts only if it is in the devices' trusted_keys")


def _read(file: Path) -> tuple[bytes, list[bytes]]:
    """Return a file of key sets and its envelopes. Raises an error that names the file."""
    from edgeexit.errors import SignatureError
    from edgeexit.files import read_limited
    from edgeexit.key_set import MAX_HISTORY_BYTES, decode_history, newest_key_set

    try:
        history = read_limited(file.resolve(), max_bytes=MAX_HISTORY_BYTES)
    except OSError as error:
        raise ConfigError(f"file of key sets '{file}' cannot be read: {error.strerror or error}") from error
    try:
        newest_key_set(history)
        return history, decode_history(history)
    except SignatureError as error:
        raise SignatureError(f"file of key sets '{file}': {error}") from error


def _write(file: Path, history: bytes) -> None:
    from edgeexit.files import write_atomic

    write_atomic(file, history)
