"""What arrives from the cloud: the newest message counts, a flood is bounded, and errors end nothing."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edgeexit.agent.fleet_link.downlink import Downlink, Topic
from tests.agent.fleet import wait_for


@contextmanager
def running(topics: dict[str, Topic], ticks: list[float] | None = None) -> Iterator[Downlink]:
    downlink = Downlink(topics, tick=lambda: None if ticks is None else ticks.append(time.monotonic()))
    downlink.start()
    try:
        yield downlink
    finally:
        downlink.stop()


def test_messages_are_handled_in_another_thread_and_an_error_is_logged_on_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handled: list[bytes] = []

    def handle(payload: bytes) -> None:
        if payload == b"bad":
            raise ValueError("broken\nmessage")
        handled.append(payload)
        assert threading.current_thread().name == "agent-downlink"

    with running({"a": Topic(handle)}) as downlink:
        downlink.receivers["a"](b"bad")
        wait_for(lambda: caplog.records, "the warning")
        downlink.receivers["a"](b"good")
        wait_for(lambda: handled == [b"good"], "the next message")
    assert caplog.messages == ["a: ValueError: broken message"]


def test_only_the_newest_message_of_a_retained_topic_is_handled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    busy, resume, handled = threading.Event(), threading.Event(), []

    def block(_: bytes) -> None:
        busy.set()
        resume.wait(10)

    with running(
        {"block": Topic(block), "policy": Topic(handled.append), "command": Topic(handled.append, max_waiting=2)}
    ) as downlink:
        receivers = downlink.receivers
        receivers["block"](b"")
        assert busy.wait(5)
        for number in range(5):
            receivers["policy"](b"policy %d" % number)
            receivers["command"](b"command %d" % number)
        resume.set()
        wait_for(lambda: len(handled) == 3, "three messages")
    assert handled == [b"policy 4", b"command 3", b"command 4"]
    assert "a message on 'policy' was replaced by a newer one" in caplog.text


@pytest.mark.parametrize(("cost_s", "weight"), [(0.0, 1), (0.03, 3)], ids=["cheap", "expensive"])
def test_a_flood_on_one_topic_neither_uses_a_core_nor_delays_another_topic(cost_s: float, weight: int) -> None:
    handled: list[bytes] = []
    seen: list[float] = []

    def flooded(payload: bytes) -> None:
        handled.append(payload)
        until = time.thread_time() + cost_s
        while time.thread_time() < until:
            pass

    ticks: list[float] = []
    with running({"flood": Topic(flooded), "policy": Topic(lambda _: seen.append(time.monotonic()))}, ticks) as link:
        receivers, started = link.receivers, time.monotonic()
        while time.monotonic() - started < 1.5:
            receivers["flood"](b"invalid")
            if not seen and time.monotonic() - started > 1.0:
                receivers["policy"](b"valid")
            time.sleep(0.001)
        wait_for(lambda: seen, "the policy")
    # A burst of 10 and 10 per second, whatever this machine's speed; fewer if a message takes more than 10 ms.
    assert 10 / weight <= len(handled) <= (10 + 10 * (time.monotonic() - started)) / weight + 1
    assert len(ticks) >= 2, "the periodic checks go on"


def test_stopping_does_not_wait_for_the_rest_of_a_flood() -> None:
    handled: list[bytes] = []
    with running({"a": Topic(handled.append, max_waiting=100)}) as downlink:
        for _ in range(100):
            downlink.receivers["a"](b"")
    assert len(handled) < 100
