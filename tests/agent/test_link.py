"""The link under load: policies are never dropped, and all messages arrive after a long outage."""

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
from tests.agent.messages import make_audit


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

    def state(online: bool) -> State:  # noqa: FBT001 - the signature that the link expects
        return State(
            online=online,
            bundle=digest,
            cohort="default",
            start="0" * 16,
            uptime_s=1,
            accepted=0,
            revision=0,
            policy="none",
            agent="0",
        )

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


def test_policies_are_not_lost_when_the_inbox_is_full(
    fleet: Fleet, config: AgentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    policies: list[bytes] = []
    busy, resume = threading.Event(), threading.Event()

    def block(_: object) -> None:
        busy.set()
        resume.wait(10)

    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    with connected(fleet, config, outbox, on_policy=policies.append, on_command=block):
        fleet.send_command(config, "report")
        assert busy.wait(5)
        for n in range(150):
            fleet.send_ack(config, make_audit())
            if n % 50 == 0:
                fleet.send_policy_bytes(config, b"an older policy")
        wait_for(lambda: "the inbox is full" in caplog.text, "the inbox to be full")
        fleet.send_policy_bytes(config, b"the cohort's policy")
        fleet.send_policy_bytes(config, b"a device policy", to_device=True)
        fleet.send_policy_bytes(config, b"")
        wait_for(lambda: "was cleared" in caplog.text, "the last message")
        resume.set()
        wait_for(lambda: len(policies) >= 2, "both policies")
    assert sorted(policies) == [b"a device policy", b"the cohort's policy"]


def test_messages_of_an_outage_arrive_once_each_as_they_are_acknowledged(
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
