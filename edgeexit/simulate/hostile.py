"""What malicious devices send: invalid, forged, contradictory and too many messages."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple, get_args

from edgeexit.latency import BIN_COUNT
from edgeexit.signing import PrivateKey
from edgeexit.wire import SCORE_BINS, DeviceAddress, up_topic
from edgeexit.wire.audit_signing import sign_audit
from edgeexit.wire.topics import ROOT

HostileKind = Literal["invalid JSON", "forged audit", "impossible counters", "flood", "foreign topic", "unknown bundle"]
HOSTILE_KINDS: Final[tuple[HostileKind, ...]] = get_args(HostileKind)
"""A malicious device sends messages of one kind."""

_FLOOD: Final = 200
"""Messages of a flood at once."""
_HUGE: Final = 2**63 - 1


class HostileMessage(NamedTuple):
    """A message of a malicious device."""

    kind: HostileKind
    topic: str
    payload: bytes


class HostileDevice:
    """A malicious device.

    Args:
        address: its own address; it never uses that of another device of the fleet.
        kind: what it sends.
        bundle: digest of the bundle of the fleet.
        exits: number of exits of the bundle.
        source: random numbers.

    """

    def __init__(
        self, address: DeviceAddress, kind: HostileKind, *, bundle: str, exits: int, source: random.Random
    ) -> None:
        self.address = address
        self.kind: HostileKind = kind
        self._bundle = bundle
        self._exits = exits
        self._random = source
        self._key = PrivateKey.from_private_bytes(source.randbytes(32))
        self._start = f"{source.getrandbits(64):016x}"
        self._sequence = 0
        self._cohort = "hostile"

    def messages(self) -> Iterator[HostileMessage]:
        """Yield what it sends next."""
        makers: dict[HostileKind, Callable[[], Iterator[tuple[str, bytes]]]] = {
            "invalid JSON": self._invalid,
            "forged audit": self._forged,
            "impossible counters": self._impossible,
            "flood": self._flood,
            "foreign topic": self._foreign,
            "unknown bundle": self._unknown,
        }
        for topic, payload in makers[self.kind]():
            yield HostileMessage(self.kind, topic, payload)

    def _invalid(self) -> Iterator[tuple[str, bytes]]:
        valid = self._report()
        cut = self._random.randrange(len(valid))
        bodies = [
            valid[:cut],
            b"[" * 5000,
            self._random.randbytes(300),
            b'{"start":"%b","sequence":1e400}' % self._start.encode(),
            valid.replace(b'"sequence":', b'"sequence":-'),
            valid.replace(b'"exits":[', b'"exits":[null,'),
            b"",
        ]
        yield (
            up_topic(self.address, self._random.choice(("report", "state", "audit", "profile"))),
            self._random.choice(bodies),
        )

    def _forged(self) -> Iterator[tuple[str, bytes]]:
        self._sequence += 1
        sample = {"exit": 0, "top1": [0] * self._exits, "p1": [0.5] * self._exits, "p2": [0.1] * self._exits,
                  "entropy": [0.5] * self._exits}  # fmt: skip
        audit = json.dumps({**self._origin(), "samples": [sample]}).encode()
        topic = up_topic(self.address, "audit")
        other = up_topic(self.address._replace(device=f"{self.address.device}-other"), "audit")
        signed = sign_audit(audit, topic=other, key=self._key)
        yield topic, self._random.choice((signed, signed.replace(b'"exit":', b'"exit": ', 1)))

    def _impossible(self) -> Iterator[tuple[str, bytes]]:
        made: Callable[[int], int] = self._random.choice((lambda _: _HUGE, lambda _: 2**62, lambda k: 5 - 3 * k))
        yield up_topic(self.address, "report"), self._report(count=lambda k: max(made(k), 0))
        # Counters that go backwards: valid on their own, below those of the report before.
        yield up_topic(self.address, "report"), self._report(count=lambda _: self._random.randrange(100), honest=True)

    def _flood(self) -> Iterator[tuple[str, bytes]]:
        topic = up_topic(self.address, "report")
        for _ in range(_FLOOD):
            if self._random.random() < 0.1:  # noqa: PLR2004 - many starts, too
                self._start = f"{self._random.getrandbits(64):016x}"
            yield topic, self._report(honest=True)

    def _foreign(self) -> Iterator[tuple[str, bytes]]:
        fleet = f"{self.address.fleet}-other"
        topics = (
            up_topic(self.address._replace(fleet=fleet), "report"),
            f"{ROOT}/{self.address.fleet}/{self.address.shard}/{self.address.device}/up/report/more",
            f"{ROOT}/{self.address.fleet}/{self.address.shard}/a b/up/report",
            f"{ROOT}/{self.address.fleet}/policy/{self.address.device}/up/report",
        )
        yield self._random.choice(topics), self._report(honest=True)

    def _unknown(self) -> Iterator[tuple[str, bytes]]:
        bundle = f"{self._random.getrandbits(256):064x}"
        cohort = f"hostile-{self._random.getrandbits(32):08x}"
        yield up_topic(self.address, "report"), self._report(honest=True, bundle=bundle, cohort=cohort)

    def _origin(self, **fields: Any) -> dict[str, Any]:
        origin = {"start": self._start, "sequence": self._sequence, "bundle": self._bundle, "cohort": self._cohort}
        return {**origin, "revision": 0, **fields}

    def _report(self, *, count: Callable[[int], int] = lambda _: 1, honest: bool = False, **fields: Any) -> bytes:
        """Return a report; `honest`: its counters do not contradict each other."""
        self._sequence += 1
        exited = [count(k) for k in range(self._exits)]
        exits = []
        for k, number in enumerate(exited):
            reached = sum(exited[k:]) if honest else number
            scores, latency = [0] * SCORE_BINS, [0] * BIN_COUNT
            scores[-1], latency[10] = reached, number
            exits.append({"reached": reached, "exited": number, "scores": scores, "latency": latency})
        return json.dumps({**self._origin(**fields), "uptime_s": 1.0, "exits": exits}).encode()
