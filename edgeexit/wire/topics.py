"""Topic names: how they are built, parsed and subscribed to."""

import re
from typing import Final, Literal, NamedTuple, get_args

from edgeexit.errors import MessageError

ROOT: Final = "edgeexit/v1"

UpKind = Literal["state", "report", "audit", "profile"]
"""Kinds of messages that a device publishes."""
DownKind = Literal["ack", "policy", "command"]
"""Kinds of messages that a device receives."""

_UP_KINDS: Final[tuple[str, ...]] = get_args(UpKind)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RESERVED_SHARDS: Final = ("policy", "heartbeat", "keys", "calibrator")
"""These levels stand in the place of a shard in the topics that are not for one device."""
_UP_LEVELS: Final = 7


class DeviceAddress(NamedTuple):
    """The three topic levels that identify a device."""

    fleet: str
    shard: str
    device: str


def check_name(what: str, name: str) -> str:
    """Check that `name` can be a topic level, and return it.

    Args:
        what: kind of the name, for the error message; the name of a "shard" must also not be reserved.
        name: the name to check.

    Raises MessageError if the name is not valid.

    """
    if not _NAME.fullmatch(name):
        raise MessageError(f"{what} '{name}' must be 1 to 64 characters of A-Z a-z 0-9 _ -")
    if what == "shard" and name in _RESERVED_SHARDS:
        raise MessageError(f"shard '{name}' is reserved for topics of the fleet; choose another name")
    return name


def up_topic(address: DeviceAddress, kind: UpKind) -> str:
    """Return the topic on which a device publishes messages of this kind."""
    return f"{ROOT}/{address.fleet}/{address.shard}/{address.device}/up/{kind}"


def down_topic(address: DeviceAddress, kind: DownKind) -> str:
    """Return the topic on which a device receives messages of this kind."""
    return f"{ROOT}/{address.fleet}/{address.shard}/{address.device}/down/{kind}"


def policy_topic(fleet: str, bundle: str, cohort: str) -> str:
    """Return the topic of a cohort's policy (retained); `bundle` is the bundle's digest."""
    return f"{ROOT}/{fleet}/policy/{bundle}/{cohort}"


def heartbeat_topic(fleet: str, bundle: str, cohort: str) -> str:
    """Return the topic of a cohort's heartbeat (retained); `bundle` is the bundle's digest."""
    return f"{ROOT}/{fleet}/heartbeat/{bundle}/{cohort}"


def keys_topic(fleet: str) -> str:
    """Return the topic of the fleet's key set (retained)."""
    return f"{ROOT}/{fleet}/keys"


def presence_topic(fleet: str) -> str:
    """Return the topic on which the calibrator of a fleet shows that it runs (retained)."""
    return f"{ROOT}/{fleet}/calibrator"


def state_filter(fleet: str) -> str:
    """Return the topic filter for the states of all devices of a fleet."""
    return f"{ROOT}/{fleet}/+/+/up/state"


def uplink_filter(fleet: str, shard: str = "+") -> str:
    """Return the topic filter for everything that the devices of a shard (default: of all shards) publish."""
    return f"{ROOT}/{fleet}/{shard}/+/up/#"


def parse_up_topic(topic: str) -> tuple[DeviceAddress, str]:
    """Return the device that publishes on `topic` and the kind of message. Raises MessageError for any other topic."""
    levels = topic.split("/")
    if len(levels) != _UP_LEVELS or "/".join(levels[:2]) != ROOT or levels[5] != "up" or levels[6] not in _UP_KINDS:
        raise MessageError(f"topic '{topic}' is not {ROOT}/FLEET/SHARD/DEVICE/up/({'|'.join(_UP_KINDS)})")
    address = DeviceAddress(*levels[2:5])
    for what, name in zip(DeviceAddress._fields, address, strict=True):
        check_name(what, name)
    return address, levels[6]
