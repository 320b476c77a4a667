"""The link under load: all messages arrive after a long outage."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgeexit.agent import AgentConfig
from edgeexit.agent.identity import DeviceIdentity
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
    receivers: Mapping[str, Callable[[bytes], None]] | None = None,
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
        outbox=outbox,
        identity=DeviceIdentity(config.state_dir),
        state=state,
        collect=lambda: None,
        receivers=receivers or {},
    )
    link.start()
    try:
        wait_for(lambda: fleet.state(config), "the state")
        yield link
    finally:
        link.stop()


def test_messages_of_an_outage_arrive_once_each_as_they_are_acknowledged(
    fleet: Fleet, config: AgentConfig, tmp_path: Path
) -> None:
    count = 200
    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    for _ in range(count):
        outbox.add(make_audit())
    sequences = [entry.sequence for entry in outbox.pending("audit", limit=count)]
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
