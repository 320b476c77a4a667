"""Checks of downlink messages that are invalid, too large, replayed, or for another device."""

import contextlib
import secrets
from collections.abc import Callable

from bench import Bench, FailedError, SkippedError, check
from broker_client import new_client

from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import COMMAND_TYPE, MAX_BYTES, Command, Report, down_topic, encode

_PAYLOADS: tuple[bytes, ...] = (
    b"",
    b"\x00\xff\xfe",
    b"{",
    b"null",
    b"[]",
    b'{"start":1,"sequences":"x"}',
    b'{"start":"' + b"a" * 5000 + b'","sequences":[1]}',
    b'{"payload":"%%%","payloadType":"x","signatures":[]}',
    b'{"payload":1e999,"payloadType":null,"signatures":{}}',
    b'{"sequences":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b'{"start":"0123456789abcdef","sequences":[' + b",".join([b"1"] * 2000) + b"]}",
    b'{"start":"0123456789abcdef","sequences":[-1,1e400,99999999999999999999999]}',
)
_ATTEMPTS = 3


def _survives(bench: Bench, send: Callable[[], None]) -> None:
    """Send something; the client must stay connected, keep its start, and go on reporting."""
    start, connects = bench.calibrator.current().start, _connects_with_will(bench)
    send()
    bench.pause()
    if _connects_with_will(bench) > connects:
        raise FailedError("the client connected again")
    report = bench.next_report("a report afterwards")
    if report.start != start:
        raise FailedError("the client started again")


def _connects_with_will(bench: Bench) -> int:
    """Return how often the client has connected; other connections may come and go."""
    return sum(connect.will_topic is not None for connect in bench.proxy.connects)


@check("downlink", "malformed", "The client ignores malformed downlink messages, and keeps its connection.")
def _malformed(bench: Bench) -> str:
    def send() -> None:
        kinds: tuple[...] = ("ack", "policy", "command")
        for kind in kinds:
            for payload in _PAYLOADS:
                bench.calibrator.publish(down_topic(bench.calibrator.address, kind), payload)

    _survives(bench, send)
    return f"{3 * len(_PAYLOADS)} messages"


@check("downlink", "oversized", "The client ignores a downlink message above 256 KiB, and keeps its connection.")
def _oversized(bench: Bench) -> str:
    payload = b'{"x":"' + b"a" * MAX_BYTES + b'"}'
    refused = []

    def send() -> None:
        topics = [down_topic(bench.calibrator.address, kind) for kind in ("ack", "command")]
        refused.extend(topic for topic in topics if not _publish_apart(bench, topic, payload))

    _survives(bench, send)
    if refused:
        raise SkippedError("the broker does not take messages of this size")
    return f"2 messages of {len(payload)} bytes"


def _publish_apart(bench: Bench, topic: str, payload: bytes) -> bool:
    """Publish over a connection of its own, which the broker may end because of the size; return whether it took it."""
    client = new_client(bench.calibrator.version)
    client.connect(*bench.broker)
    client.loop_start()
    try:
        message = client.publish(topic, payload, qos=1)
        with contextlib.suppress(RuntimeError):
            message.wait_for_publish(2)
        return message.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


@check("downlink", "command", "A command `report` makes the client publish a report at once.")
def _command(bench: Bench) -> str:
    for _ in range(_ATTEMPTS):
        if _reports_after(bench, bench.calibrator.command()):
            return "a report arrived before the next one was due"
    raise FailedError("no report arrived before the next one was due")


@check("downlink", "command-replayed", "A command is obeyed once: the same envelope again changes nothing.")
def _command_replayed(bench: Bench) -> None:
    envelope = bench.calibrator.command()
    _reports_after(bench, envelope)
    _expect_nothing(bench, lambda: envelope, "the command was obeyed again")


@check(
    "downlink",
    "command-of-others",
    "A command for another start, device or fleet, or by an unknown key, changes nothing.",
)
def _command_of_others(bench: Bench) -> str:
    calibrator = bench.calibrator
    other_key = PrivateKey.generate()
    content = Command(
        action="report",
        fleet=calibrator.address.fleet,
        device=calibrator.address.device,
        start=calibrator.current().start,
        id=secrets.token_hex(8),
    )
    for what, envelope in (
        ("another start", lambda: calibrator.command(start=secrets.token_hex(8))),
        ("another device", lambda: calibrator.command(device=f"{calibrator.address.device}x"[-64:])),
        ("another fleet", lambda: calibrator.command(fleet=f"{calibrator.address.fleet}x"[-64:])),
        ("an unknown key", lambda: sign(encode(content), payload_type=COMMAND_TYPE, keys=[other_key])),
        ("another type", lambda: sign(encode(content), payload_type=COMMAND_TYPE + "x", keys=[calibrator.key])),
    ):
        _expect_nothing(bench, envelope, f"a command of {what} was obeyed")
    return "5 commands"


def _expect_nothing(bench: Bench, envelope: Callable[[], bytes], failure: str) -> None:
    """Raise FailedError if the client obeys a command in most attempts; a report may be due by chance."""
    obeyed = [_reports_after(bench, envelope()) for _ in range(2)]
    if obeyed[0] != obeyed[1]:
        obeyed.append(_reports_after(bench, envelope()))
    if sum(obeyed) > 1:
        raise FailedError(failure)


def _reports_after(bench: Bench, envelope: bytes) -> bool:
    """Send a command directly after a report; return whether another report arrives well before it is due."""
    bench.next_report()
    index = len(bench.calibrator.seen)
    bench.calibrator.send_command(envelope)

    def newer() -> bool:
        return any(isinstance(report, Report) for report in bench.calibrator.since(index, Report))

    return bool(bench.calibrator.wait(newer, 0.7 * bench.report_interval_s))
