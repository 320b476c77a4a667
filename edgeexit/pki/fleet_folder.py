"""All keys, certificates and configuration files of a trial fleet in one folder, ready to be copied.

What was created once is not created again, even if it was moved to where it is used: `ca/issued/` and `public/`
remember it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Final

import msgspec

from edgeexit.errors import ConfigError
from edgeexit.files import write_atomic
from edgeexit.key_set import KEY_SET_TYPE, KeySet, Role, RoleKeys, encode_history, encode_key_set
from edgeexit.pki.authority_folder import AuthorityFolder
from edgeexit.pki.broker_files import BROKER_FOLDER, BROKER_PORT, mosquitto_acl, mosquitto_conf
from edgeexit.pki.certificates import MAX_COMMON_NAME
from edgeexit.pki.issued import IssuedCertificate, calibrator_name, check_device_name, operator_name
from edgeexit.pki.private_folder import make_folder
from edgeexit.signing import encode_public_key, generate_key, load_private_key, load_public_key, public_key_text, sign
from edgeexit.wire import check_name

KEY_SET_FILE: Final = "key_set.json"
_KEYS: Final[dict[Role, Path]] = {
    "root": Path("root/root.key"),
    "bundle": Path("release/bundle.key"),
    "policy": Path("calibrator/policy.key"),
    "command": Path("operator/command.key"),
}
"""Role -> where its private key is created; the public key gets the suffix .pub."""
_PUBLIC: Final = "public"
"""Folder of a copy of all public keys and of the first key set."""
_MAX_NUMBERED: Final = 10_000
_OFFLINE: Final = frozenset({"root", "bundle"})
"""Roles whose keys no running service needs, so that they can have a passphrase."""


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial fleet consists of."""

    fleet: str
    hosts: tuple[str, ...]
    """Names of the broker; devices connect to the first one."""
    devices: tuple[str, ...]
    cohort: str = "default"
    shards: tuple[str, ...] = ("s0",)
    """Devices get the first one; the broker accepts them all."""
    port: int = BROKER_PORT

    def check(self) -> None:
        """Raise ConfigError or MessageError for a name that is not valid, before anything is created."""
        check_name("fleet", self.fleet)
        check_name("cohort", self.cohort)
        for shard in self.shards:
            check_name("shard", shard)
        for device in self.devices:
            check_device_name(device)
        longest = max(calibrator_name(self.fleet), operator_name(self.fleet), key=len)
        if len(longest) > MAX_COMMON_NAME:
            raise ConfigError(
                f"fleet '{self.fleet}' is too long: its calibrator is named '{longest}' in a certificate, which has "
                f"room for {MAX_COMMON_NAME} characters"
            )


def create_fleet(
    authority: AuthorityFolder,
    plan: FleetPlan,
    *,
    new_passphrase: str | None = None,
    passphrase: Callable[[], str] | None = None,
    on_device: Callable[[], None] = lambda: None,
) -> list[IssuedCertificate]:
    """Create what was not created before; return all certificates of the plan. Files that exist are not changed.

    Args:
        authority: the folder, locked.
        plan: what the fleet consists of.
        new_passphrase: encrypts the new private keys of the authority, root and bundles.
        passphrase: called if the root key is encrypted, to sign the first key set.
        on_device: called after each device.

    """
    plan.check()
    folder = authority.folder
    certificates = [authority.create(f"EdgeExit {plan.fleet}", new_passphrase=new_passphrase)]
    certificates.append(authority.broker(plan.hosts))
    _write_missing(folder / "broker" / "mosquitto.conf", mosquitto_conf(plan.fleet, port=plan.port))
    _write_missing(folder / "broker" / "edgeexit.acl", mosquitto_acl(plan.fleet, shards=plan.shards))
    certificates += [authority.calibrator(plan.fleet), authority.operator(plan.fleet)]
    for role in _KEYS:
        _create_signing_key(folder, role, passphrase=new_passphrase if role in _OFFLINE else None)
    _create_key_set(folder, plan.fleet, passphrase)
    public = {f"{role}.pub": (folder / _PUBLIC / f"{role}.pub").read_text(encoding="utf-8") for role in _KEYS}
    for device in plan.devices:
        certificates.append(authority.device(device))
        home = folder / "devices" / device
        for name, text in public.items():
            _write_missing(home / name, text)
        _write_missing(home / "agent.toml", _agent_toml(plan, device))
        on_device()
    _write_missing(folder / "README.md", _readme(plan))
    return certificates


def _create_key_set(folder: Path, fleet: str, passphrase: Callable[[], str] | None) -> None:
    copy = folder / _PUBLIC / KEY_SET_FILE
    if copy.exists():
        return
    key = load_private_key(folder / _KEYS["root"], passphrase=passphrase)
    envelope = sign(encode_key_set(_first_key_set(folder, fleet)), payload_type=KEY_SET_TYPE, keys=[key])
    history = encode_history([envelope])
    _write_missing(folder / "calibrator" / KEY_SET_FILE, history.decode())
    write_atomic(copy, history)


def _first_key_set(folder: Path, fleet: str) -> KeySet:
    def keys(role: Role) -> RoleKeys:
        return RoleKeys(keys=(public_key_text(load_public_key(folder / _PUBLIC / f"{role}.pub")),))

    return KeySet(fleet=fleet, version=1, roles={role: keys(role) for role in _KEYS})


def _create_signing_key(folder: Path, role: Role, *, passphrase: str | None) -> None:
    """Create a key pair, and a copy of its public key, which stands for both once they have been moved."""
    copy, private = folder / _PUBLIC / f"{role}.pub", folder / _KEYS[role]
    public = private.with_suffix(".pub")
    if copy.exists():
        return
    make_folder(private.parent)
    make_folder(copy.parent)
    if os.path.lexists(private):  # the last command was interrupted
        key = load_private_key(private, passphrase=None if passphrase is None else lambda: passphrase)
        _write_missing(public, encode_public_key(key.public_key()).decode())
    else:
        generate_key(private, passphrase=passphrase)
    write_atomic(copy, public.read_bytes())


def _write_missing(path: Path, text: str) -> None:
    """Write a file unless it exists, or its folder was moved to where it is used."""
    if path.parent.is_dir() and not os.path.lexists(path):
        write_atomic(path, text.encode())


def _agent_toml(plan: FleetPlan, device: str) -> str:
    return f"""\
# The agent of the device "{device}"; docs/agent.md describes all settings.
fleet = "{plan.fleet}"
shard = "{plan.shards[0]}"
device = "{device}"
cohort = "{plan.cohort}"
trusted_keys = ["root.pub"]
policy_keys = ["policy.pub"]
command_keys = ["command.pub"]
# With signed bundles (`edgeexit sign BUNDLE --key release/bundle.key`):
# bundle_keys = ["bundle.pub"]
# signed_bundle = true

[broker]
url = "{_url(plan)}"
ca_file = "ca.crt"
certificate_file = "tls.crt"
key_file = "tls.key"
"""


def _url(plan: FleetPlan) -> str:
    host = plan.hosts[0]
    return f"mqtts://{f'[{host}]' if ':' in host else host}:{plan.port}"


def _readme(plan: FleetPlan) -> str:
    template = Template(Path(__file__).with_name("fleet_readme.template").read_text(encoding="utf-8"))
    return template.substitute(
        fleet=plan.fleet,
        shard=plan.shards[0],
        url=_url(plan),
        broker_folder=BROKER_FOLDER,
        key_set=KEY_SET_FILE,
    )


def device_names(text: str) -> tuple[str, ...]:
    """Return the names in `a,b,c`, or device-1 to device-N for a number N. Raises ConfigError for neither."""
    number = text.strip()
    if re.fullmatch(r"[+-]?[0-9]+", number):  # also a number that is out of range: it is not meant as a name
        count = int(number) if len(number) <= len(str(_MAX_NUMBERED)) else 0
        if not 1 <= count <= _MAX_NUMBERED:
            raise ConfigError(f"--devices {number}: give a number from 1 to {_MAX_NUMBERED}, or names")
        return tuple(f"device-{index:0{len(str(count))}d}" for index in range(1, count + 1))
    return tuple(dict.fromkeys(check_device_name(name.strip()) for name in text.split(",")))
