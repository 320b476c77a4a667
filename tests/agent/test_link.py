"""The line under load: what may be dropped, what must not, and how a long outage is made up for."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent import AgentConfig
from edgeexit.agent.link import FleetLink
from edgeexit.agent.outbox import Outbox
from edgeexit.wire import Audit, State
from tests.agent.fleet import Fleet, wait_for
from tests.agent.test_outbox import make_audit


@contextmanager
def connected(
    fleet: Fleet,
    config: AgentConfig,
    outbox: Outbox,
    *,
    on_policy: Callable[[bytes], None] = lambda _: None,
    on_command: Callable[[Any], None] = lambda _: None,
) -> Iterator[FleetLink]:
    digest = fleet.bundle.digest

    def state(online: bool) -> State:  # noqa: FBT001 - as the link calls it
        return State(online=online, bundle=digest, cohort="default", boot=1, revision=0, policy="none", agent="0")

    link = FleetLink(
        config,
        bundle=digest,
        outbox=outbox,
        state=state,
        collect=lambda: None,
        on_policy=on_policy,
        on_command=on_command,
    )
    link.start()
    try:
        wait_for(lambda: fleet.state(config), "the state")
        yield link
    finally:
        link.stop()


def test_a_policy_is_not_lost_where_acks_and_commands_are(
    fleet: Fleet, config: AgentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    taken: list[bytes] = []
    busy, go_on = threading.Event(), threading.Event()

    def be_busy(_: object) -> None:
        busy.set()
        go_on.wait(10)

    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    with connected(fleet, config, outbox, on_policy=taken.append, on_command=be_busy):
        fleet.send_command(config, "report")
        assert busy.wait(5)
        for n in range(150):
            fleet.send_ack(config, make_audit())
            if n % 50 == 0:
                fleet.send_policy_bytes(config, b"an older policy")
        wait_for(lambda: "the inbox is full" in caplog.text, "the inbox to be full")
        fleet.send_policy_bytes(config, b"the cohort's policy")
        fleet.send_policy_bytes(config, b"a pin", pin=True)
        fleet.send_policy_bytes(config, b"")
        wait_for(lambda: "was cleared" in caplog.text, "the last message")
        go_on.set()
        wait_for(lambda: len(taken) >= 2, "both policies")
    assert sorted(taken) == [b"a pin", b"the cohort's policy"]


def test_what_piled_up_arrives_once_as_fast_as_it_is_acknowledged(
    fleet: Fleet, config: AgentConfig, tmp_path: Path
) -> None:
    count = 200
    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    for _ in range(count):
        outbox.add(make_audit())
    sequences = outbox.pending("audit", limit=count)
    acknowledged = 0
    with connected(fleet, config, outbox) as link:

        def acknowledge_all() -> bool:
            nonlocal acknowledged
            audits = fleet.messages(config, Audit)[acknowledged:]
            if audits:
                fleet.send_ack(config, *audits)
                acknowledged += len(audits)
            return link.unacknowledged == 0

        wait_for(acknowledge_all, "all audits to be acknowledged")
    assert sorted(audit.sequence for audit in fleet.messages(config, Audit)) == sequences
