"""Messages of hostile devices and brokers for the whole intake of the calibrator: changed, forged, and on any topic."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from mutation import mutate

from edgeexit.latency import BIN_COUNT
from edgeexit.signing import PrivateKey
from edgeexit.wire import MAX_BYTES, SCORE_BINS, Delivery
from edgeexit.wire.audit_signing import sign_audit
from edgeexit.wire.packet_codec import PUBLISH, PacketError, PacketStream, encode_publish, parse_publish

_DEVICES: Final = 50
_COUNTS: Final = (*(0, 1, 5, 2**31, 2**32) * 5, 2**53 - 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1)
_NUMBERS: Final = (*(0, 1, 2, 99, 2**31, 2**50) * 5, 2**53 - 1, 2**53, 2**60 - 1, 2**60, 2**63 - 1)
_TIMES: Final = (0.0, 1e-300, 1.0, 86400.0, 1e10, 1e18, 1e300)
_TEXTS: Final = ("", "a", "\0", "a\0b", "\n\r\x1b[31m", "\u2028", "\U0010ffff" * 64, "%s{0}", "'; DROP TABLE device;--")
_LEVELS: Final = (
    *("", "+", "#", "$SYS", "a b", "\0", "\n", "ä", "x" * 65, "x" * 5000, "..", "policy", "heartbeat", "keys"),
    *("plant", "other", "s0", "s1", "press-7", "up", "down", "state", "report", "audit", "profile", "ack", "v1", "v2"),
)
_RAW: Final = (
    *(b"", b"\xff\xfe", b"\xed\xa0\x80", b"nan", b"NaN", b"[NaN]", b'{"start":NaN}', b"1e999", b"-1e999", b"9" * 5000),
    *(b"[" * 100_000, b'{"a":' * 20_000, b'"' + b"\\u0000" * 1000 + b'"', b'"\\ud800"', b"\0" * 100, b" " * MAX_BYTES),
    *(b"{" * (MAX_BYTES + 1), b'{"start":"0123456789abcdef","sequence":1}', b'{"audit":{"start":1}}', b"null", b"true"),
)


class HostileMessages:
    """Makes messages at random, the same ones for the same seed.

    Args:
        fleet: the fleet of the calibrator.
        bundle: digest of a bundle that is registered.
        golden: kind of message -> the golden messages, valid and invalid ones.
        seed: of the random generator.

    """

    def __init__(self, *, fleet: str, bundle: str, golden: Mapping[str, tuple[bytes, ...]], seed: int) -> None:
        self._random = random.Random(f"hostile {seed}")  # noqa: S311 - the same messages for the same seed
        self._fleet = fleet
        self._bundles = (bundle, "b" * 64, *(f"{number:064x}" for number in range(40)))
        self._golden = golden
        self._others = tuple(message for messages in golden.values() for message in messages)
        self._keys = [PrivateKey.from_private_bytes(self._random.randbytes(32)) for _ in range(8)]
        self._makers: Mapping[str, Callable[[], dict[str, Any]]] = {
            "state": self._state, "report": self._report, "audit": self._audit, "profile": self._profile,
        }  # fmt: skip

    def messages(self) -> Iterator[Delivery]:
        """Yield messages without end."""
        ways = (self._changed, self._forged, self._elsewhere, self._raw, self._as_packets)
        while True:
            for way in self._random.choices(ways, (30, 50, 10, 2, 8), k=100):
                yield from way()

    def _choice(self, values: Any) -> Any:
        return self._random.choice(values)

    def _kind(self) -> str:
        return self._random.choices(tuple(self._makers), (4, 6, 4, 1))[0]

    def _topic(self, kind: str) -> str:
        device = f"hostile-{self._random.randrange(_DEVICES)}"
        return f"edgeexit/v1/{self._fleet}/s{self._random.randrange(3)}/{device}/up/{kind}"

    def _delivery(self, topic: str, payload: bytes) -> Delivery:
        return Delivery(topic=topic, payload=payload, retain=self._random.random() < 0.1)  # noqa: PLR2004

    def _changed(self) -> Iterator[Delivery]:
        """Yield a golden message with random changes; it may be on a topic of another kind."""
        kind = self._kind()
        payload = mutate(self._choice(self._golden[kind]), self._random, self._others)
        yield self._delivery(self._topic(kind if self._random.random() < 0.9 else self._choice(list(_LEVELS))), payload)  # noqa: PLR2004

    def _forged(self) -> Iterator[Delivery]:
        """Yield a message that the schema allows, or nearly, with hostile values; an audit is signed."""
        kind = self._kind()
        topic, content = self._topic(kind), msgspec.json.encode(self._makers[kind]())
        yield self._delivery(topic, content)
        if kind == "audit":
            yield self._delivery(topic, sign_audit(content, topic=topic, key=self._choice(self._keys)))

    def _elsewhere(self) -> Iterator[Delivery]:
        """Yield a message on a topic of any shape."""
        levels = self._topic(self._kind()).split("/")
        for _ in range(self._random.randrange(1, 4)):
            place = self._random.randrange(len(levels) + 1)
            levels[place : place + self._random.randrange(2)] = [self._choice(_LEVELS)] * self._random.randrange(3)
        kind = self._kind()
        yield self._delivery("/".join(levels), self._choice(self._golden[kind]))

    def _raw(self) -> Iterator[Delivery]:
        yield self._delivery(self._topic(self._kind()), self._choice(_RAW))

    def _as_packets(self) -> Iterator[Delivery]:
        """Yield what the codec of the link finds in a changed stream of MQTT packets."""
        kind, version5 = self._kind(), self._random.random() < 0.5  # noqa: PLR2004
        packet = encode_publish(
            self._topic(kind), self._choice(self._golden[kind]), version5=version5, packet_id=1, retain=False
        )
        place = self._random.randrange(40)
        data = packet[:place] + mutate(packet[place : place + 40], self._random, ()) + packet[place + 40 :]
        stream = PacketStream(max_bytes=MAX_BYTES + 1024)
        try:
            for found in stream.feed(data):
                if found.kind == PUBLISH:
                    message = parse_publish(found, version5=version5)
                    yield self._delivery(message.topic.decode(), message.payload)
        except (PacketError, UnicodeDecodeError):
            return

    def _named(self) -> dict[str, Any]:
        """Return the fields that most messages have in common."""
        return {
            "start": f"{self._random.randrange(200):016x}",
            "bundle": self._bundles[0] if self._random.random() < 0.98 else self._choice(self._bundles),  # noqa: PLR2004
            "cohort": self._choice(("presses", "x", "A" * 64)) if self._random.random() < 0.99 else "c",  # noqa: PLR2004
            "revision": self._choice((0, 1, 2, self._choice(_NUMBERS))),
        }

    def _state(self) -> dict[str, Any]:
        texts = [self._choice(_TEXTS) for _ in range(self._random.randrange(9))]
        return (
            self._named()
            | {
                "online": self._random.random() < 0.7,  # noqa: PLR2004
                "uptime_s": self._choice(_TIMES),
                "accepted": self._choice(_NUMBERS),
                "policy": self._choice(_TEXTS),
                "agent": self._choice(_TEXTS),
                "problems": texts[:8],
                "rejected": self._choice((None, {"reason": self._choice(_TEXTS), "revision": self._choice((None, 1))})),
                "reverted": self._choice((None, {"reason": self._choice(_TEXTS), "revision": self._choice(_NUMBERS)})),
                "confirmed": self._choice((None, {"counter": self._choice(_COUNTS), "revision": 1})),
            }
        )

    def _report(self) -> dict[str, Any]:
        exits, remaining = [], self._choice(_COUNTS)
        for _ in range(self._choice((*(2, 3, 3, 3) * 10, 1, 64, 65))):
            exited = self._choice((*(0, remaining // 2, remaining) * 5, self._choice(_COUNTS)))
            latency = [exited, *[0] * (BIN_COUNT - 1)]
            exits.append(
                {
                    "reached": remaining,
                    "exited": exited,
                    "scores": [remaining, *[0] * (SCORE_BINS - 1)],
                    "latency": latency,
                }
            )
            remaining = max(0, remaining - exited)
        return self._named() | {
            "sequence": self._choice((*_NUMBERS, self._random.randrange(10**6))),
            "uptime_s": self._choice(_TIMES),
            "exits": exits,
            "failed": self._choice((0, 0, self._choice(_COUNTS))),
            "skipped": self._choice(_COUNTS),
            "losses": {"full": self._choice(_COUNTS), "largest_bytes": self._choice(_COUNTS)},
        }

    def _audit(self) -> dict[str, Any]:
        exits = self._choice((*(2, 3, 3, 3) * 10, 1, 64))
        sample = {
            "exit": self._choice((*(0, exits - 1) * 10, exits)),
            "top1": [self._choice((0, 1, 2**24 - 1, 2**24)) if self._random.random() < 0.05 else 1] * exits,  # noqa: PLR2004
            "p1": [self._choice((0.0, 5e-324, 0.5, 1.0))] * exits,
            "p2": [0.25] * exits,
            "entropy": [self._choice((*(0.0, 1.0, 1e-300) * 10, 1e300))] * exits,
            "label": self._choice((None, 0, 2**63 - 1)),
        }
        return self._named() | {
            "sequence": self._choice((*_NUMBERS, self._random.randrange(10**6))),
            "samples": [sample] * self._choice((*(1, 2, 3) * 10, 0, 257 if exits <= 3 else 1)),  # noqa: PLR2004
        }

    def _profile(self) -> dict[str, Any]:
        profile = msgspec.json.decode(self._choice(self._golden["profile"]))
        profile["bundle"] = self._choice((*self._bundles, "\0" * 64, "a\0"))
        profile["machine"] = self._choice((*_TEXTS * 3, "m" * 1001))
        profile["warnings"] = [self._choice(_TEXTS)] * self._choice((*(0, 1) * 20, 5000))
        return dict(profile)
