"""The topics of the protocol: who publishes on each, how, and what a payload contains."""

from typing import Final, NamedTuple

import msgspec

from edgeexit.key_set import KEY_SET_TYPE, KeySet
from edgeexit.latency import LatencyProfile
from edgeexit.policies import PolicyDocument
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import Envelope
from edgeexit.wire import (
    COMMAND_TYPE,
    HEARTBEAT_TYPE,
    PRESENCE_TYPE,
    Ack,
    CalibratorPresence,
    Command,
    Heartbeat,
    Report,
    SignedAudit,
    State,
)

_UP: Final = "{fleet}/{shard}/{device}/up"
_DOWN: Final = "{fleet}/{shard}/{device}/down"


class Signed(NamedTuple):
    """What the envelopes on a topic contain."""

    payload_type: str
    content: type[msgspec.Struct]


class Channel(NamedTuple):
    """One topic of the protocol."""

    name: str
    topic: str
    """Address below `edgeexit/v1/`; levels in braces are names."""
    sender: str
    """The only party that may publish here: `device`, `calibrator` or `operator`."""
    message: type[msgspec.Struct]
    """Type of the payload; `Envelope` if the payload is signed."""
    summary: str
    retained: bool = False
    signed: Signed | None = None
    is_list: bool = False
    """True: the payload is a JSON list of such messages."""


_POLICY: Final = Signed(PAYLOAD_TYPE, PolicyDocument)
CHANNELS: Final = (
    Channel("state", f"{_UP}/state", "device", State, "what the device runs; also the will", retained=True),
    Channel("report", f"{_UP}/report", "device", Report, "cumulative counters of one (start, revision)"),
    Channel(
        "audit",
        f"{_UP}/audit",
        "device",
        SignedAudit,
        "samples that were run to full depth after their prediction was returned, signed by the device",
    ),
    Channel(
        "profile", f"{_UP}/profile", "device", LatencyProfile, "latency of the bundle on this device", retained=True
    ),
    Channel("ack", f"{_DOWN}/ack", "calibrator", Ack, "numbers of the messages that are stored, or refused"),
    Channel(
        "device_policy",
        f"{_DOWN}/policy",
        "calibrator",
        Envelope,
        "policy for one device; overrides the policy of its cohort",
        retained=True,
        signed=_POLICY,
    ),
    Channel(
        "command",
        f"{_DOWN}/command",
        "operator",
        Envelope,
        "publish reports now, or measure a profile now",
        signed=Signed(COMMAND_TYPE, Command),
    ),
    Channel(
        "cohort_policy",
        "{fleet}/policy/{bundle}/{cohort}",
        "calibrator",
        Envelope,
        "policy for a cohort",
        retained=True,
        signed=_POLICY,
    ),
    Channel(
        "heartbeat",
        "{fleet}/heartbeat/{bundle}/{cohort}",
        "calibrator",
        Envelope,
        "newest revision of a cohort's policy, so that a device notices withheld policies",
        retained=True,
        signed=Signed(HEARTBEAT_TYPE, Heartbeat),
    ),
    Channel(
        "keys",
        "{fleet}/keys",
        "calibrator",
        Envelope,
        "the key sets of the fleet, the oldest first",
        retained=True,
        signed=Signed(KEY_SET_TYPE, KeySet),
        is_list=True,
    ),
    Channel(
        "calibrator",
        "{fleet}/calibrator",
        "calibrator",
        Envelope,
        "that a calibrator serves the fleet, and with which database; empty if none does; devices do not read it",
        retained=True,
        signed=Signed(PRESENCE_TYPE, CalibratorPresence),
    ),
)
