"""The agent at brokers other than rumqttd: MQTT 5 and 3.1.1, over TCP, WebSockets and mutual TLS."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent import Agent
from edgeexit.wire import Audit, BrokerConfig, broker_connection
from tests.agent.fleet import Fleet, wait_for_reports, wait_for_revision
from tests.broker import Amqtt, Mosquitto
from tests.bundles import make_samples
from tests.certificates import CertificateAuthority
from tests.waiting import wait_for


@pytest.fixture(
    params=["mosquitto", "mosquitto with small packets", "mosquitto with mutual TLS", "amqtt over WebSockets"]
)
def broker_config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerConfig]:
    """The config of a client of a broker that has started."""
    name = request.param
    broker: Any
    config: dict[str, str] = {}
    if name == "mosquitto with mutual TLS":
        authority = CertificateAuthority(tmp_path / "ca")
        server, client = authority.issue("server"), authority.issue("client")
        tls = {"cafile": authority.file, "certfile": server.certificate, "keyfile": server.key}
        broker = Mosquitto(tmp_path / "broker", tls={**tls, "require_certificate": "true"})
        config = {"ca_file": authority.file, "certificate_file": client.certificate, "key_file": client.key}
    elif name == "mosquitto with small packets":
        broker = Mosquitto(tmp_path / "broker", max_packet_size=3000)
    else:
        broker = Mosquitto(tmp_path / "broker") if name == "mosquitto" else Amqtt(websockets=True)
    broker.start()
    yield BrokerConfig(url=broker.url, **config)
    broker.stop()


def test_state_policies_reports_audits_and_commands_work(
    broker_config: BrokerConfig,
    bundle: Any,
    changed: Callable[..., Any],
    key: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker_connection, "_CONNACK_TIMEOUT_S", 0.5)  # amqtt does not answer MQTT 5
    config = changed(broker=broker_config, audit_fraction=1.0)
    fleet = Fleet(broker_config, bundle, key)
    fleet.start()
    try:
        fleet.send_policy(config, fleet.document(3))
        with Agent(bundle, config) as agent:
            wait_for_revision(fleet, config, 3)
            agent.infer(make_samples(50))
            wait_for_reports(fleet, config, 50)
            wait_for(lambda: sum(len(one.samples) for one in fleet.messages(config, Audit)) >= 50, "all audits")
            fleet.send_policy(config, fleet.document(4))
            wait_for_revision(fleet, config, 4)
            agent.infer(make_samples(5))
            fleet.send_command(config, "report")
            wait_for_reports(fleet, config, 55)
            state = fleet.state(config)
            assert state is not None
            assert state.problems == ()
        wait_for(lambda: (state := fleet.state(config)) and not state.online, "the offline state")
    finally:
        fleet.stop()
