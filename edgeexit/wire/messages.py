"""Every message on the wire and the topics: one contract between device and cloud.

JSON payloads, schema-checked, at most `MAX_BYTES`. Uplink messages that must not be lost carry the identity of the
outbox that numbered them and a sequence number; `down/ack` returns those numbers once they are committed.
"""

import re
from typing import Annotated, Final, Literal, NamedTuple, TypeVar

import msgspec

from edgeexit.errors import MessageError
from edgeexit.latency import BIN_COUNT, LatencyProfile
from edgeexit.policies.document import Digest, Fraction, Name

ROOT: Final = "edgeexit/v1"
MAX_BYTES: Final = 256 * 1024
SCORE_BINS: Final = 20
MAX_EXITS: Final = 64

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Databases hold 64-bit integers: a larger one is refused here, not there."""
UpKind = Literal["state", "report", "audit", "profile"]
DownKind = Literal["ack", "policy", "command"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RESERVED_SHARD: Final = "policy"  # the level below the fleet where cohorts' policies live


class DeviceAddress(NamedTuple):
    """Where a device stands in the topic tree."""

    fleet: str
    shard: str
    device: str


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """The last policy that a device refused, and why."""

    reason: str
    revision: int | None = None
    """null where the document could not be read that far."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`up/state`: what a device is running. Retained; with `online` false it is the will."""

    online: bool
    bundle: Digest
    cohort: Name
    boot: Count
    revision: Count
    policy: str
    """Kind of the policy in force."""
    agent: str
    """Version of the agent."""
    rejected: Rejection | None = None


class ExitCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative counts at one exit."""

    reached: Count
    exited: Count
    scores: Annotated[tuple[Count, ...], msgspec.Meta(min_length=SCORE_BINS, max_length=SCORE_BINS)]
    """Histogram of score / the policy's score limit, over equal bins of [0, 1]; samples that reached the exit."""
    latency: Annotated[tuple[Count, ...], msgspec.Meta(min_length=BIN_COUNT, max_length=BIN_COUNT)]
    """Log-bin histogram (see `latency`) of the whole latency of samples that left here."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`up/report`: cumulative counters of one (boot, revision); the highest sequence wins."""

    outbox: str
    sequence: Count
    bundle: Digest
    cohort: Name
    boot: Count
    revision: Count
    uptime_s: Annotated[float, msgspec.Meta(ge=0)]
    """Monotonic seconds since the agent started; devices' wall clocks are not believed."""
    exits: Annotated[tuple[ExitCounters, ...], msgspec.Meta(min_length=2, max_length=MAX_EXITS)]
    failed: Count = 0
    """Inferences that raised an error."""
    dropped: Count = 0
    """Messages that the bounded outbox had to drop, since it was made."""
    skipped: Count = 0
    """Samples that were drawn for an audit and not audited, since the agent started: it was behind, or they failed."""


class AuditedSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sample that was run to full depth after its early answer; lists are [K], shallow to deep."""

    exit: Count
    """Where the policy let it leave."""
    top1: tuple[Count, ...]
    p1: tuple[Fraction, ...]
    p2: tuple[Fraction, ...]
    entropy: tuple[Annotated[float, msgspec.Meta(ge=0)], ...]
    label: Count | None = None
    """The true class, where the application told it."""
    prediction: Count | None = None
    """What an early exit was answered with, where that is not `top1[exit]`: a policy may let several exits vote."""

    @property
    def disagrees(self) -> bool:
        """Whether the answer was not the final exit's class; the final exit always answers with its own."""
        prediction = self.top1[self.exit] if self.prediction is None else self.prediction
        return self.exit < len(self.top1) - 1 and prediction != self.top1[-1]

    def __post_init__(self) -> None:
        """Refuse lists of different lengths or an exit beyond them (ValueError)."""
        exits = len(self.top1)
        if not (len(self.p1) == len(self.p2) == len(self.entropy) == exits) or self.exit >= exits:
            raise ValueError(f"an audited sample needs {exits} values a list, and an exit below that")


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """`up/audit`: samples drawn by a random bit that does not depend on the input."""

    outbox: str
    sequence: Count
    bundle: Digest
    cohort: Name
    boot: Count
    revision: Count
    samples: Annotated[tuple[AuditedSample, ...], msgspec.Meta(min_length=1, max_length=256)]


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """`down/ack`: these messages of that outbox are in the calibrator's database."""

    outbox: str
    sequences: tuple[Count, ...]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """`down/command`: something to do now."""

    action: Literal["report", "profile"]


Message = State | Report | Audit | LatencyProfile | Ack | Command
UP_TYPES: Final[dict[str, type[State | Report | Audit | LatencyProfile]]] = {
    "state": State,
    "report": Report,
    "audit": Audit,
    "profile": LatencyProfile,
}

M = TypeVar("M", State, Report, Audit, LatencyProfile, Ack, Command)


def encode(message: Message) -> bytes:
    """Return a message's JSON. Raises MessageError when it is larger than `MAX_BYTES`."""
    payload = msgspec.json.encode(message)
    if len(payload) > MAX_BYTES:
        raise MessageError(f"{type(message).__name__} of {len(payload)} bytes is larger than the {MAX_BYTES} allowed")
    return payload


def decode(payload: bytes, kind: type[M]) -> M:
    """Read a message of a known kind. Raises MessageError that names the field."""
    if len(payload) > MAX_BYTES:
        raise MessageError(f"{kind.__name__} of {len(payload)} bytes is larger than the {MAX_BYTES} allowed")
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MessageError(f"{kind.__name__}: {error}") from error


def check_name(what: str, name: str) -> str:
    """Return `name`, or raise MessageError when it cannot be a level of a topic."""
    if not _NAME.fullmatch(name):
        raise MessageError(f"{what} '{name}' must be 1 to 64 of A-Z a-z 0-9 _ -")
    if what == "shard" and name == _RESERVED_SHARD:
        raise MessageError(f"shard '{name}' is reserved for the cohorts' policies; name it otherwise")
    return name


def up_topic(address: DeviceAddress, kind: UpKind) -> str:
    """Return the topic on which a device publishes `kind`."""
    return f"{ROOT}/{address.fleet}/{address.shard}/{address.device}/up/{kind}"


def down_topic(address: DeviceAddress, kind: DownKind) -> str:
    """Return the topic on which a device receives `kind`."""
    return f"{ROOT}/{address.fleet}/{address.shard}/{address.device}/down/{kind}"


def policy_topic(fleet: str, bundle: str, cohort: str) -> str:
    """Return the retained topic of a cohort's policy."""
    return f"{ROOT}/{fleet}/policy/{bundle}/{cohort}"


def uplink_filter(fleet: str, shard: str = "+") -> str:
    """Return the subscription to everything that a shard's devices (default: all shards') send up."""
    return f"{ROOT}/{fleet}/{shard}/+/up/#"


def parse_up_topic(topic: str) -> tuple[DeviceAddress, str]:
    """Return who published and what kind it is. Raises MessageError for any other topic."""
    levels = topic.split("/")
    if len(levels) != 7 or "/".join(levels[:2]) != ROOT or levels[5] != "up" or levels[6] not in UP_TYPES:  # noqa: PLR2004
        raise MessageError(f"topic '{topic}' is not {ROOT}/FLEET/SHARD/DEVICE/up/({'|'.join(UP_TYPES)})")
    address = DeviceAddress(*levels[2:5])
    for what, name in zip(DeviceAddress._fields, address, strict=True):
        check_name(what, name)
    return address, levels[6]
