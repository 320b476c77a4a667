"""Configuration and access control list (ACL) of mosquitto for one fleet."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Final, get_args

from edgeexit.pki.issued import calibrator_name, operator_name
from edgeexit.wire.topics import ROOT, UpKind

BROKER_FOLDER: Final = "/etc/mosquitto/edgeexit"
"""Where the files of the broker are expected."""
BROKER_PORT: Final = 8883
_CONNECTIONS: Final = 10_000
_UP_KINDS: Final[tuple[str, ...]] = get_args(UpKind)


def mosquitto_conf(fleet: str, *, folder: str = BROKER_FOLDER, port: int = BROKER_PORT) -> str:
    """Return `mosquitto.conf`: mutual TLS with a revocation list, limits, and the ACL."""
    template = Template(Path(__file__).with_name("mosquitto.conf.template").read_text(encoding="utf-8"))
    return template.substitute(fleet=fleet, folder=folder, port=port, connections=_CONNECTIONS)


def mosquitto_acl(fleet: str, *, shards: Sequence[str] = ("s0",)) -> str:
    """Return the ACL: what each client of a fleet may publish and receive."""
    return "\n".join(_acl_lines(fleet, shards)) + "\n"


def _acl_lines(fleet: str, shards: Sequence[str]) -> Iterable[str]:
    root = f"{ROOT}/{fleet}"
    yield f'# Permissions in the fleet "{fleet}". %u is the common name of the client\'s certificate.'
    yield ""
    yield "# Each device publishes four kinds of messages below its own name, and receives what is for it or for all"
    yield "# devices. mosquitto warns that the last patterns contain no %u: this is intended."
    for shard in shards:
        yield from (f"pattern write {root}/{shard}/%u/up/{kind}" for kind in _UP_KINDS)
        yield f"pattern read {root}/{shard}/%u/down/#"
    yield f"pattern read {root}/policy/#"
    yield f"pattern read {root}/heartbeat/#"
    yield f"pattern read {root}/keys"
    yield ""
    yield "# The calibrator. It reads its own publications, to notice if another client replaces them."
    yield f"user {calibrator_name(fleet)}"
    yield from (f"topic read {root}/+/+/up/{kind}" for kind in _UP_KINDS)
    yield f"topic write {root}/+/+/down/ack"
    yield f"topic readwrite {root}/+/+/down/policy"
    yield f"topic readwrite {root}/policy/+/+"
    yield f"topic readwrite {root}/heartbeat/+/+"
    yield f"topic readwrite {root}/keys"
    yield f"topic readwrite {root}/calibrator"
    yield ""
    yield "# Those who run `edgeexit calibrator command`."
    yield f"user {operator_name(fleet)}"
    yield f"topic read {root}/+/+/up/state"
    yield f"topic write {root}/+/+/down/command"
