import threading
from datetime import datetime, timezone

import pytest
from edgeexit_calibration import CalibratorService, ServiceConfig, open_database
from edgeexit_calibration.store.shards import add_shards

from edgeexit.signing import generate_key, load_private_key
from edgeexit.wire import BrokerConfig
from tests.broker import RealBroker
from tests.calibration.scenario import DEVICE, FLEET, Client, fitted_bundle, until
from tests.postgres import postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """Return the URL of a new database of each kind, with the schema of this version."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'calibrator.sqlite'}"
        open_database(url).close()
        yield url
    else:
        server = postgres()
        url = server.create_migrated()
        yield url
        server.start()  # a test may have stopped it
        server.drop(url)


@pytest.fixture
def database(database_url):
    opened = open_database(database_url)
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


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "calibrator.key"
    generate_key(path)
    return path


@pytest.fixture
def serve(database, broker, key):
    """Return a function that starts a service; it stops at the end of the test."""
    running = []

    def start(store=database, url=broker.url, *, waits=True, **options):
        if not store.is_sqlite:
            with store.writing() as session:
                add_shards(session, FLEET, [DEVICE.shard], now=datetime.now(timezone.utc))
        options.setdefault("check_interval_s", 0.1)
        config = ServiceConfig(fleet=FLEET, broker=BrokerConfig(url=url), **options)
        service, stop = CalibratorService(store, config, [load_private_key(key)]), threading.Event()
        thread = threading.Thread(target=service.run, args=(stop,))
        thread.start()
        running.append((stop, thread))
        if waits:
            until(lambda: service.connected)
        return service, lambda: (stop.set(), thread.join(10))

    yield start
    for stop, thread in running:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def connect(broker):
    clients = []

    def to(*subscriptions):
        clients.append(Client(broker, *subscriptions))
        return clients[-1]

    yield to
    for client in clients:
        client.close()
