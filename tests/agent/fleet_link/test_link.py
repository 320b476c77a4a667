"""The link with real brokers: everything arrives, also what is large, over a slow connection, or after a crash."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from edgeexit.agent import AgentConfig
from edgeexit.agent.fleet_link.identity import DeviceIdentity
from edgeexit.agent.fleet_link.link import FleetLink
from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.bundle import Bundle
from edgeexit.signing import PrivateKey
from edgeexit.wire import Ack, Audit, BrokerConfig, Losses, PacketTooLargeError, Refusal, Report, State, reconnecting
from tests.agent.fleet import Fleet, wait_for
from tests.agent.limiting_proxy import LimitingProxy
from tests.agent.messages import make_audit, make_report
from tests.agent.outboxes import entries, labels
from tests.broker import Mosquitto, RealBroker


def make_link(
    fleet: Fleet,
    config: AgentConfig,
    outbox: Outbox,
    *,
    problems: tuple[str, ...] = (),
) -> FleetLink:
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
            problems=problems,
        )

    return FleetLink(
        config,
        outbox=outbox,
        identity=DeviceIdentity(config.state_dir),
        state=state,
        collect=lambda: None,
        receivers={},
    )


@contextmanager
def connected(fleet: Fleet, config: AgentConfig, outbox: Outbox) -> Iterator[FleetLink]:
    link = make_link(fleet, config, outbox)
    link.start()
    try:
        wait_for(lambda: fleet.state(config), "the state")
        yield link
    finally:
        link.stop()


class Storing:
    """Acknowledges what the device sends, as a calibrator does."""

    def __init__(self, fleet: Fleet, config: AgentConfig) -> None:
        self._fleet = fleet
        self._config = config
        self._acknowledged = 0

    def __call__(self) -> int:
        """Acknowledge what has arrived; return the number of messages that have arrived."""
        messages = [
            one for one in self._fleet.messages(self._config, (Audit, Report)) if isinstance(one, Audit | Report)
        ]
        for message in messages[self._acknowledged :]:
            self._fleet.send_ack(self._config, message)
        self._acknowledged = len(messages)
        return self._acknowledged


def at(config: AgentConfig, url: str, **fields: float) -> AgentConfig:
    return msgspec.structs.replace(config, broker=BrokerConfig(url=url), **fields)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "mosquitto", max_packet_size=6000)
    broker.start()
    yield broker
    broker.stop()


@contextmanager
def cloud(url: str, bundle: Bundle, key: PrivateKey) -> Iterator[Fleet]:
    fleet = Fleet(url, bundle, key)
    fleet.start()
    yield fleet
    fleet.stop()


def test_messages_of_an_outage_arrive_once_each_as_they_are_acknowledged(
    fleet: Fleet, config: AgentConfig, tmp_path: Path
) -> None:
    count = 200
    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    for _ in range(count):
        outbox.add(make_audit())
    sequences = [entry.sequence for entry in outbox.pending("audit", limit=count)]
    with connected(fleet, config, outbox) as link:
        store = Storing(fleet, config)
        wait_for(lambda: store() and link.unacknowledged == 0, "all audits to be acknowledged")
    assert sorted(audit.sequence for audit in fleet.messages(config, Audit)) == sequences


def test_a_broker_with_a_small_packet_limit_gets_split_audits_and_stays_connected(
    mosquitto: Mosquitto, bundle: Bundle, key: PrivateKey, config: AgentConfig, tmp_path: Path
) -> None:
    config = at(config, mosquitto.url)
    outbox = Outbox(tmp_path / "outbox", max_bytes=1024 * 1024)
    outbox.add(make_audit(200))
    outbox.add(make_report(exits=64))
    outbox.add(make_report(revision=1))
    with cloud(mosquitto.url, bundle, key) as fleet, connected(fleet, config, outbox) as link:
        store = Storing(fleet, config)
        wait_for(lambda: store() and link.unacknowledged == 0, "all messages that fit to be acknowledged")
        assert link.connected
    assert sorted(labels(*fleet.messages(config, Audit))) == list(range(200))
    assert [report.revision for report in fleet.messages(config, Report)] == [1]
    assert outbox.losses.oversized == 1
    assert outbox.losses.largest_bytes > 6000
    assert len(fleet.messages(config, State)) <= 2, "online once, offline once: the connection never ended"


def test_a_broker_that_does_not_even_take_the_state_makes_the_device_drop_nothing(
    fleet: Fleet, config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    outbox.add(make_audit(20))
    outbox.add(make_report())
    link = make_link(fleet, config, outbox)

    def refuse(topic: str, payload: bytes, **_: object) -> None:
        raise PacketTooLargeError(topic, size=len(payload), limit=50)

    monkeypatch.setattr(link._session, "publish", refuse)
    link.start()
    wait_for(lambda: "the state is not published" in caplog.text, "the attempt to publish the state")
    link.wake()
    link.stop()
    assert len(entries(outbox)) == 2
    assert outbox.losses == Losses()


def test_a_state_that_is_too_large_is_published_without_its_problems(
    mosquitto: Mosquitto, bundle: Bundle, key: PrivateKey, config: AgentConfig, tmp_path: Path
) -> None:
    config = at(config, mosquitto.url)
    outbox = Outbox(tmp_path / "outbox", max_bytes=1024 * 1024)
    outbox.add(make_report())
    with cloud(mosquitto.url, bundle, key) as fleet:
        link = make_link(fleet, config, outbox, problems=("\N{EURO SIGN}" * 300,) * 8)
        link.start()
        store = Storing(fleet, config)
        wait_for(lambda: store() and link.unacknowledged == 0, "the report to be acknowledged")
        link.stop()
        state = fleet.state(config)
        assert state is not None
        assert state.problems == ()


def test_a_broker_that_ends_the_connection_without_a_reason_gets_split_audits_after_some_attempts(
    fleet: Fleet, broker: RealBroker, config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnecting, "_MAX_DELAY_S", 0.2)
    monkeypatch.setattr(reconnecting, "_FIRST_DELAY_S", 0.2)
    proxy = LimitingProxy(broker.port, max_packet=5000)
    config = at(config, proxy.url, resend_s=1.0)
    outbox = Outbox(tmp_path / "outbox", max_bytes=1024 * 1024)
    for number in range(3):
        outbox.add(make_audit(150, first=1000 * number))
    for revision in range(5):
        outbox.add(make_report(revision=revision))
    with connected(fleet, config, outbox) as link:
        store = Storing(fleet, config)
        wait_for(lambda: store() and link.unacknowledged == 0, "all messages to be acknowledged", timeout_s=30)
    proxy.close()
    found = set(labels(*fleet.messages(config, Audit)))
    assert found == {1000 * one + n for one in range(3) for n in range(150)}
    assert {report.revision for report in fleet.messages(config, Report)} == set(range(5))
    assert outbox.losses == Losses()
    assert 4 <= proxy.connections < 16


def test_on_a_slow_connection_nothing_is_queued_twice_and_the_state_does_not_wait_long(
    fleet: Fleet, broker: RealBroker, config: AgentConfig, tmp_path: Path
) -> None:
    """In the time that this needs, each message would be repeated several times if only its age counted."""
    proxy = LimitingProxy(broker.port, bytes_per_s=100_000)
    config = at(config, proxy.url, resend_s=0.2)
    outbox = Outbox(tmp_path / "outbox", max_bytes=1024 * 1024)
    for number in range(40):
        outbox.add(make_audit(80, first=100 * number))
    size = sum(entry.size + 250 for entry in entries(outbox))
    with connected(fleet, config, outbox) as link:
        store = Storing(fleet, config)
        wait_for(store, "the first message")
        link.publish_state()
        wait_for(lambda: store() and len(fleet.messages(config, State)) == 2, "the second state")
        assert link.unacknowledged > 20, "it does not wait until the whole window is sent"
        wait_for(lambda: store() and link.unacknowledged == 0, "all audits to be acknowledged", timeout_s=20)
    proxy.close()
    audits = [audit.sequence for audit in fleet.messages(config, Audit)]
    assert len(audits) == len(set(audits)) == 40
    assert proxy.forwarded < 1.3 * size + 2000


def test_messages_survive_a_broker_that_is_killed_and_forgets_and_connections_that_end(
    bundle: Bundle, key: PrivateKey, config: AgentConfig, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    config = at(config, broker.url, resend_s=0.3)
    outbox = Outbox(tmp_path / "outbox", max_bytes=1024 * 1024)
    seen: set[int] = set()
    expected = []
    with cloud(broker.url, bundle, key) as fleet, connected(fleet, config, outbox) as link:
        for turn in range(3):
            for number in range(20):
                outbox.add(make_audit(first=100 * turn + number))
                expected.append(100 * turn + number)
            link.wake()
            wait_for(lambda: fleet.messages(config, Audit), "the first audits")
            broker.stop(kill=True)
            broker.start()
            wait_for(lambda: link.connected, "the connection")
            fleet.reconnected()
        store = Storing(fleet, config)
        wait_for(lambda: store() and link.unacknowledged == 0, "all audits to be acknowledged", timeout_s=20)
        seen.update(labels(*fleet.messages(config, Audit)))
    broker.stop()
    assert sorted(seen) == expected


def test_a_refused_message_is_deleted_and_hostile_acknowledgements_change_nothing(
    fleet: Fleet, config: AgentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = at(config, config.broker.url, resend_s=3600.0)
    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    for _ in range(3):
        outbox.add(make_audit())
    with connected(fleet, config, outbox) as link:
        wait_for(lambda: len(fleet.messages(config, Audit)) == 3, "the audits")
        for payload in (b"", b"{", b'{"start":"' + b"0" * 16 + b'","sequences":[-1]}', b"[" * 100_000):
            fleet.send_ack_bytes(config, payload)
        fleet.send_ack_bytes(config, msgspec.json.encode(Ack(start="f" * 16, sequences=tuple(range(1024)))))
        many = {"start": outbox.start, "sequences": list(range(2000))}
        fleet.send_ack_bytes(config, msgspec.json.encode(many))
        refusals = (Refusal(sequence=2, reason="class 9 of 4"), Refusal(sequence=3, reason="not yet", final=False))
        fleet.send_ack_bytes(config, msgspec.json.encode(Ack(start=outbox.start, sequences=(1,), refused=refusals)))
        wait_for(lambda: link.unacknowledged == 1, "the stored and the refused message to be deleted")
        time.sleep(0.3)
        assert [entry.sequence for entry in entries(outbox)] == [3]
    assert outbox.losses == Losses(refused=1)
    assert len(fleet.messages(config, Audit)) == 3, "nothing is sent again"
    ignored = [record.message for record in caplog.records if "ignored" in record.message]
    assert 1 <= len(ignored) <= 2, "one line, and the number of the others at the end"


def test_the_thread_of_the_link_sleeps_while_nothing_is_due(
    fleet: Fleet, config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = at(config, config.broker.url, resend_s=3600.0, report_interval_s=3600.0)
    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    for _ in range(5):
        outbox.add(make_audit())
    with connected(fleet, config, outbox) as link:
        wait_for(lambda: len(fleet.messages(config, Audit)) == 5, "the audits")
        time.sleep(0.3)
        calls: list[float] = []
        send = link._sender.send
        monkeypatch.setattr(link._sender, "send", lambda now: calls.append(now) or send(now))
        time.sleep(1.0)
        assert calls == []
