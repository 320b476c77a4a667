"""A model whose readouts are known, mosquitto, and the fixtures of tests/calibration."""

import pytest
from edgeexit_calibration.views.stored_totals import stored_fleet

from edgeexit.fitting import ReadoutDataset
from edgeexit.simulate import BrokerAccess, SimulatedModel, simulate_fleet
from edgeexit.wire import BrokerConfig
from tests.broker import Mosquitto
from tests.calibration.conftest import bundle, database, database_url, key, serve  # noqa: F401 - fixtures
from tests.calibration.scenario import EXITS, FLEET, readouts_of
from tests.simulate.fleets import options_of


@pytest.fixture
def broker(tmp_path):
    running = Mosquitto(tmp_path / "mosquitto", lines=["max_queued_messages 0"])
    running.start()
    yield running
    running.stop()


@pytest.fixture
def model(bundle):  # noqa: F811 - the fixture
    document = bundle.policy()
    temperatures = document.policy.temperatures
    dataset = ReadoutDataset(readouts=readouts_of(500), costs=bundle.manifest.macs, temperatures=temperatures)
    assert dataset.exits == EXITS
    return SimulatedModel(bundle.digest, document.policy, 4, dataset, (1.0, 3.0, 9.0))


@pytest.fixture
def simulate(broker, model, database):  # noqa: F811 - the fixture
    """Return a function that runs a simulation and compares it with the database."""

    def run(*, version="5", keys=None, compare=True, totals=None, **fields):
        return simulate_fleet(
            options_of(**fields),
            model,
            BrokerAccess(BrokerConfig(url=broker.url), version),
            keys=keys,
            read_totals=(totals or (lambda: stored_fleet(database, FLEET))) if compare else None,
        )

    return run
