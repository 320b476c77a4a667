import pytest
from edgeexit_calibration import open_database

from tests.broker import RealBroker
from tests.calibration.scenario import fitted_bundle


@pytest.fixture
def database(tmp_path):
    opened = open_database(str(tmp_path / "calibrator.sqlite"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return fitted_bundle(tmp_path_factory.mktemp("fitted") / "bundle")


@pytest.fixture
def broker(tmp_path):
    running = RealBroker(tmp_path)
    running.start()
    yield running
    running.stop()
