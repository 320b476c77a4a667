"""The messages between devices and cloud, as documents, and their JSON encoding.

A payload is JSON of at most `MAX_BYTES` bytes that is checked against its schema. Messages that must not be lost have a
sequence number and the start of the agent that numbered them; `down/ack` returns the numbers of the messages that the
calibrator has committed to its database, or that it refuses.
"""

from typing import Annotated, Final, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.errors import MessageError
from edgeexit.latency import BIN_COUNT, LatencyProfile
from edgeexit.policies.document import Digest, Fraction, Name, Revision
from edgeexit.policies.readout import COLUMNS, ENTROPY, P1, P2, TOP1
from edgeexit.signing import PublicKeyText

MAX_BYTES: Final = 256 * 1024
"""Maximum size of a payload."""
SCORE_BINS: Final = 20
"""Number of bins of a histogram of scores."""
MAX_ACKED: Final = 1024
"""Maximum number of sequence numbers in one acknowledgement."""
MAX_REFUSED: Final = 128
"""Maximum number of refusals in one acknowledgement."""
HEARTBEAT_TYPE: Final = "application/vnd.edgeexit.heartbeat+json"
COMMAND_TYPE: Final = "application/vnd.edgeexit.command+json"
"""Payload types of the signed envelopes of heartbeats and commands."""
MAX_EXITS: Final = 64
"""Maximum number of exits of a bundle whose agent sends reports."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""An integer that fits into a 64-bit column of the calibrator's database."""
StartId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
"""16 random hex digits that an agent draws at every start, so that (start, sequence) never names two messages."""
Uptime = Annotated[float, msgspec.Meta(ge=0)]
"""Monotonic seconds since the agent started; wall clocks of devices may be wrong."""
Score = Annotated[float, msgspec.Meta(ge=-3.4028235e38, le=3.4028235e38)]
"""A number in the range of float32."""
Reason = Annotated[str, msgspec.Meta(max_length=300)]
"""One line of text for people."""
SignatureText = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{86}==\Z")]
"""The 64 bytes of an Ed25519 signature in base64."""


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """The last policy that a device rejected, and why."""

    reason: Reason
    revision: Revision | None = None
    """Null if the document could not be decoded."""


class Reversion(msgspec.Struct, frozen=True, kw_only=True):
    """The last policy that the device applied and then reverted by itself, and why."""

    revision: Revision
    reason: Reason


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """The newest heartbeat of its cohort that a device has verified."""

    counter: Count
    revision: Revision
    """The newest revision of the cohort, as the heartbeat names it."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`up/state`: what a device runs. Retained; the will of the connection is a state with `online` false."""

    online: bool
    start: StartId
    uptime_s: Uptime
    bundle: Digest
    cohort: Name
    revision: Revision
    """Revision of the active policy."""
    accepted: Revision
    """Highest revision accepted so far from the source of the active policy; never decreases. Above `revision` after a
    reversion."""
    policy: Annotated[str, msgspec.Meta(max_length=64)]
    """Kind of the active policy."""
    agent: Annotated[str, msgspec.Meta(max_length=64)]
    """Version of the agent."""
    key: PublicKeyText | None = None
    """Public identity key of the device, which signs its audits; null if it has none."""
    rejected: Rejection | None = None
    reverted: Reversion | None = None
    confirmed: Confirmation | None = None
    """Null before the first heartbeat."""
    unconfirmed: bool = False
    """True if no newer heartbeat, or not the policy that it announces, arrived within `confirm_within_s`."""
    problems: Annotated[tuple[Reason, ...], msgspec.Meta(max_length=8)] = ()
    """What does not work on the device now, e.g. that the outbox is in memory because the disk is full."""
    audit_fraction: Fraction | None = None
    """Fraction of the samples that the device audits without an audit rule; null: it knows no `audit` in a
    `PolicyDocument`, so it rejects every document that has one."""


class ExitCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative counts at one exit."""

    reached: Count
    """Samples whose readout was computed at this exit."""
    exited: Count
    """Samples that exited here."""
    scores: Annotated[tuple[Count, ...], msgspec.Meta(min_length=SCORE_BINS, max_length=SCORE_BINS)]
    """Histogram of the scores at this exit, each divided by the policy's `score_limit`, in equal bins of [0, 1]."""
    latency: Annotated[tuple[Count, ...], msgspec.Meta(min_length=BIN_COUNT, max_length=BIN_COUNT)]
    """Histogram of the end-to-end latency of the samples that exited here, in the bins of `latency.bin_of`."""


class Losses(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Messages that a device has given up, since its outbox was created, by cause."""

    full: Count = 0
    """Dropped because the outbox was full."""
    oversized: Count = 0
    """Larger than the broker takes, and not divisible."""
    largest_bytes: Count = 0
    """Size of the largest of these."""
    refused: Count = 0
    """Refused by the calibrator."""
    damaged: Count = 0
    """Damaged on the disk."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`up/report`: cumulative counters of one (start, revision); a higher sequence number replaces all lower ones."""

    start: StartId
    sequence: Count
    bundle: Digest
    cohort: Name
    revision: Revision
    uptime_s: Uptime
    exits: Annotated[tuple[ExitCounters, ...], msgspec.Meta(min_length=2, max_length=MAX_EXITS)]
    failed: Count = 0
    """Inferences that raised an error."""
    losses: Losses = Losses()
    skipped: Count = 0
    """Samples drawn for an audit but not audited since the agent started: the queue was full or the run failed."""


class AuditedSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sample that was run to full depth after its prediction was returned; lists are [K], from shallow to deep."""

    exit: Count
    """Index of the exit at which the sample exited."""
    top1: tuple[Count, ...]
    p1: tuple[Fraction, ...]
    p2: tuple[Fraction, ...]
    entropy: tuple[Annotated[float, msgspec.Meta(ge=0)], ...]
    label: Count | None = None
    """True class; None if the application did not pass it."""
    prediction: Count | None = None
    """Predicted class of an early exit if it differs from `top1[exit]`, as in policies in which several exits vote."""
    scores: tuple[Score, ...] | None = None
    """[K] score of the policy at each exit; None unless the policy reads the probabilities of all classes."""
    predictions: tuple[Count, ...] | None = None
    """[K] prediction of the policy at each exit, with `scores`; None if it is `top1`."""
    differing: tuple[Fraction, ...] | None = None
    """[K] fraction of the pixels or tokens whose class at each exit differs from the final exit's, 0 at the final exit;
    None unless the model predicts maps."""

    @classmethod
    def from_readout(
        cls,
        readout: npt.NDArray[np.float32],
        *,
        exit_index: int,
        prediction: int | None = None,
        label: int | None = None,
        scores: npt.NDArray[np.float32] | None = None,
        predictions: npt.NDArray[np.int64] | None = None,
        differing: npt.NDArray[np.float32] | None = None,
    ) -> "AuditedSample":
        """Return the message form of one sample's readout [K, 4] float32, clipped to the ranges of its columns.

        `prediction` is the class that was returned for the sample. The message holds it only if `top1[exit_index]`
        does not imply it. `scores` [K], finite, and `predictions` [K] are those of a policy that reads the
        probabilities of all classes. `differing` [K] are fractions of the map that the model predicts.
        """
        top1 = tuple(int(value) for value in readout[:, TOP1])
        predicted = None if predictions is None else tuple(predictions.tolist())
        return cls(
            exit=exit_index,
            top1=top1,
            p1=_shortest(np.clip(readout[:, P1], 0.0, 1.0)),
            p2=_shortest(np.clip(readout[:, P2], 0.0, 1.0)),
            entropy=_shortest(np.maximum(readout[:, ENTROPY], 0.0)),
            label=label,
            prediction=None if exit_index == len(top1) - 1 or prediction == top1[exit_index] else prediction,
            scores=None if scores is None else _shortest(scores),
            predictions=None if predicted == top1 else predicted,
            differing=None if differing is None else _shortest(differing),
        )

    def readouts(self) -> npt.NDArray[np.float32]:
        """Return the readouts of all exits [K, 4] float32; the inverse of `from_readout`."""
        columns = {TOP1: self.top1, P1: self.p1, P2: self.p2, ENTROPY: self.entropy}
        readouts = np.empty((len(self.top1), len(COLUMNS)), dtype=np.float32)
        for column, values in columns.items():
            readouts[:, column] = values
        return readouts

    @property
    def disagrees(self) -> bool:
        """True if the prediction differs from the class, or from the map, of the final exit."""
        if self.differing is not None:
            return self.differing[self.exit] > 0
        prediction = self.top1[self.exit] if self.prediction is None else self.prediction
        return self.exit < len(self.top1) - 1 and prediction != self.top1[-1]

    def __post_init__(self) -> None:
        """Raise ValueError if the lists differ in length, the exit is out of range or the final exit differs."""
        exits = len(self.top1)
        if (
            not (len(self.p1) == len(self.p2) == len(self.entropy) == exits)
            or (self.scores is not None and len(self.scores) != exits)
            or (self.predictions is not None and len(self.predictions) != exits)
            or (self.differing is not None and len(self.differing) != exits)
            or self.exit >= exits
        ):
            raise ValueError(
                f"an audited sample of {exits} exits needs {exits} values in every list, and an exit below {exits}"
            )
        if self.differing is not None and self.differing[-1] != 0:
            raise ValueError(f"differing is {self.differing[-1]:g} at the final exit, but no exit differs from itself")


def _shortest(values: npt.NDArray[np.float32]) -> tuple[float, ...]:
    """Return float32 values as the shortest decimals that give the same float32 back."""
    return tuple(float(str(value)) for value in values)


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """Audited samples, which are drawn at random, independently of the input. `up/audit` carries them signed."""

    start: StartId
    sequence: Count
    bundle: Digest
    cohort: Name
    revision: Revision
    samples: Annotated[tuple[AuditedSample, ...], msgspec.Meta(min_length=1, max_length=256)]


class SignedAudit(msgspec.Struct, frozen=True, kw_only=True):
    """`up/audit`: an audit and the signature of the device that made it; see `audit_signing`."""

    audit: msgspec.Raw
    """JSON of an `Audit`; the signature covers these bytes."""
    key: PublicKeyText
    signature: SignatureText


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A message that the calibrator does not store."""

    sequence: Count
    reason: Reason
    final: bool = True
    """True: the device deletes the message and counts it. False: it may be stored later, e.g. after an approval."""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """`down/ack`: messages of a start that the calibrator has committed to its database, or that it refuses."""

    start: StartId
    sequences: Annotated[tuple[Count, ...], msgspec.Meta(max_length=MAX_ACKED)] = ()
    refused: Annotated[tuple[Refusal, ...], msgspec.Meta(max_length=MAX_REFUSED)] = ()


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest revision of a cohort's policy; signed and retained, so that a device notices withheld policies."""

    fleet: Name
    bundle: Digest
    cohort: Name
    revision: Revision
    counter: Count
    """Increases with every heartbeat of the cohort."""


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`down/command`, signed: the agent publishes its reports now, or measures a latency profile now."""

    action: Literal["report", "profile"]
    fleet: Name
    device: Name
    start: StartId
    """The start of the agent that the command is for, so that it cannot be replayed after a restart."""
    id: StartId
    """16 random hex digits; an agent executes each id once."""


Message = State | Report | Audit | SignedAudit | LatencyProfile | Ack | Heartbeat | Command
UP_TYPES: Final[dict[str, type[State | Report | Audit | LatencyProfile]]] = {
    "state": State,
    "report": Report,
    "audit": Audit,
    "profile": LatencyProfile,
}
"""Last level of an `up` topic -> type of its messages."""

M = TypeVar("M", State, Report, Audit, SignedAudit, LatencyProfile, Ack, Heartbeat, Command)


def encode(message: Message) -> bytes:
    """Return the JSON of a message. Raises MessageError if it is larger than `MAX_BYTES`."""
    payload = msgspec.json.encode(message)
    if len(payload) > MAX_BYTES:
        raise MessageError(
            f"{type(message).__name__} of {len(payload)} bytes is larger than the maximum of {MAX_BYTES} bytes"
        )
    return payload


def decode(payload: bytes, kind: type[M]) -> M:
    """Decode a message of type `kind`.

    Raises MessageError if the message is too large, or if a field is not valid; the error then names the field.
    """
    if len(payload) > MAX_BYTES:
        raise MessageError(f"{kind.__name__} of {len(payload)} bytes is larger than the maximum of {MAX_BYTES} bytes")
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MessageError(f"{kind.__name__}: {error}") from error
