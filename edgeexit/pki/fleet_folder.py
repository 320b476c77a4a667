"""All keys, certificates and configuration files of a trial fleet in one folder, ready to be copied."""

import os
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Final

import msgspec

from edgeexit.errors import ConfigError
from edgeexit.files import write_atomic
from edgeexit.key_set import KEY_SET_TYPE, KeySet, RoleKeys, encode_history, encode_key_set
from edgeexit.pki.authority_folder import AuthorityFolder
from edgeexit.pki.broker_files import BROKER_FOLDER, BROKER_PORT, mosquitto_acl, mosquitto_conf
from edgeexit.pki.certificates import MAX_COMMON_NAME
from edgeexit.pki.issued import IssuedCertificate, calibrator_name, check_device_name, operator_name
from edgeexit.pki.private_folder import make_folder
from edgeexit.signing import encode_public_key, generate_key, load_private_key, load_public_key, public_key_text, sign
from edgeexit.wire import check_name

KEY_SET_FILE: Final = "key_set.json"
_KEYS: Final = {
    "root": Path("root/root.key"),
    "bundle": Path("release/bundle.key"),
    "policy": Path("calibrator/policy.key"),
    "command": Path("operator/command.key"),
}
"""Role -> where its private key is created; the public key gets the suffix .pub."""
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
    """Create what does not exist yet of a fleet; return all its certificates. Files that exist are not changed.

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
    _write_new(folder / "broker" / "mosquitto.conf", mosquitto_conf(plan.fleet, port=plan.port))
    _write_new(folder / "broker" / "edgeexit.acl", mosquitto_acl(plan.fleet, shards=plan.shards))
    certificates += [authority.calibrator(plan.fleet), authority.operator(plan.fleet)]
    for role, path in _KEYS.items():
        _create_signing_key(folder / path, passphrase=new_passphrase if role in _OFFLINE else None)
    if not (folder / "calibrator" / KEY_SET_FILE).exists():
        key = load_private_key(folder / _KEYS["root"], passphrase=passphrase)
        envelope = sign(encode_key_set(_first_key_set(folder, plan.fleet)), payload_type=KEY_SET_TYPE, keys=[key])
        _write_new(folder / "calibrator" / KEY_SET_FILE, encode_history([envelope]).decode())
    for device in plan.devices:
        certificates.append(authority.device(device))
        home = folder / "devices" / device
        for role, path in _KEYS.items():
            public = (folder / path).with_suffix(".pub")
            _write_new(home / f"{role}.pub", public.read_text(encoding="utf-8"))
        _write_new(home / "agent.toml", _agent_toml(plan, device))
        on_device()
    _write_new(folder / "README.md", _readme(plan))
    return certificates


def _first_key_set(folder: Path, fleet: str) -> KeySet:
    texts = {
        role: public_key_text(load_public_key((folder / path).with_suffix(".pub"))) for role, path in _KEYS.items()
    }
    return KeySet(
        fleet=fleet,
        version=1,
        roles={
            "root": RoleKeys(keys=(texts["root"],)),
            "policy": RoleKeys(keys=(texts["policy"],)),
            "bundle": RoleKeys(keys=(texts["bundle"],)),
            "command": RoleKeys(keys=(texts["command"],)),
        },
    )


def _create_signing_key(path: Path, *, passphrase: str | None) -> None:
    """Create a key pair unless it exists. The private key may have been moved to a safer place."""
    public = path.with_suffix(".pub")
    if public.exists():
        return
    make_folder(path.parent)
    if os.path.lexists(path):  # the last command was interrupted between the two files
        key = load_private_key(path, passphrase=None if passphrase is None else lambda: passphrase)
        write_atomic(public, encode_public_key(key.public_key()))
    else:
        generate_key(path, passphrase=passphrase)


def _write_new(path: Path, text: str) -> None:
    if not os.path.lexists(path):
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
    if text.isascii() and text.isdigit():
        count = int(text)
        if not 1 <= count <= _MAX_NUMBERED:
            raise ConfigError(f"--devices {text}: give a number from 1 to {_MAX_NUMBERED}, or names")
        return tuple(f"device-{number:0{len(str(count))}d}" for number in range(1, count + 1))
    return tuple(dict.fromkeys(check_device_name(name.strip()) for name in text.split(",")))
