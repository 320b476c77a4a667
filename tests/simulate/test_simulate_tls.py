"""Simulated devices against a broker that demands certificates, while the calibrator uses its plain listener."""

import pytest
from edgeexit_calibration.views.stored_totals import stored_fleet

from edgeexit.errors import ConfigError
from edgeexit.simulate import BrokerAccess, FleetEvents, simulate_fleet
from edgeexit.wire import BrokerConfig
from tests.broker import Mosquitto, free_ports
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.scenario import FLEET
from tests.certificates import CertificateAuthority
from tests.simulate.fleets import options_of


@pytest.fixture
def authority(tmp_path):
    return CertificateAuthority(tmp_path / "ca")


@pytest.fixture
def tls_port():
    (port,) = free_ports(1)
    return port


@pytest.fixture
def broker(tmp_path, authority, tls_port):
    server = authority.issue("server")
    lines = [
        f"listener {tls_port} 127.0.0.1",
        f"cafile {authority.file}",
        f"certfile {server.certificate}",
        f"keyfile {server.key}",
        "require_certificate true",
    ]
    running = Mosquitto(tmp_path / "mosquitto", lines=["max_queued_messages 0", *lines])
    running.start()
    yield running
    running.stop()


@pytest.fixture
def url(broker, tls_port):
    return f"mqtts://localhost:{tls_port}"


@ON_SQLITE
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_nothing_is_lost_double_or_wrong_over_mutual_tls(serve, database, model, authority, url, version):
    client = authority.issue("client")
    serve()
    config = BrokerConfig(url=url, ca_file=authority.file, certificate_file=client.certificate, key_file=client.key)
    options = options_of(rate=100.0, reports=None, duration_s=2.0, events=FleetEvents(restarts=60.0, stragglers=60.0))
    outcome = simulate_fleet(
        options, model, BrokerAccess(config, version), read_totals=lambda: stored_fleet(database, FLEET)
    )
    assert outcome.database.groups == ()
    assert outcome.is_exact
    assert outcome.acknowledged_reports > 0


def test_a_broker_whose_certificate_is_not_trusted_is_named(model, tmp_path, url):
    other = CertificateAuthority(tmp_path / "other", "Other")
    access = BrokerAccess(BrokerConfig(url=url, ca_file=other.file))
    with pytest.raises(ConfigError, match=rf"broker '{url}' is not reachable: .*certificate"):
        simulate_fleet(options_of(), model, access)


def test_a_broker_that_demands_a_certificate_is_named(model, authority, url):
    access = BrokerAccess(BrokerConfig(url=url, ca_file=authority.file))
    with pytest.raises(ConfigError, match=f"broker '{url}'"):
        simulate_fleet(options_of(), model, access)
