"""Every message on the wire and the topics: one contract between device and cloud.

JSON payloads, schema-checked, at most `MAX_BYTES`. Uplink messages that must not be lost carry the identity of the
outbox that numbered them and a sequence number; `down/ack` returns those numbers once they are committed.
"""

from typing import Annotated, Final, Literal, TypeVar

import msgspec

from edgeexit.errors import MessageError
from edgeexit.latency import BIN_COUNT, LatencyProfile
from edgeexit.policies.document import Digest, Fraction, Name

MAX_BYTES: Final = 256 * 1024
SCORE_BINS: Final = 20
MAX_EXITS: Final = 64

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Databases hold 64-bit integers: a larger one is refused here, not there."""


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
