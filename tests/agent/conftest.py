"""A broker, the cloud's end of the line, a device's configuration, and a bundle to run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeexit.agent import AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.policies import Rollout
from edgeexit.signing import PrivateKey, generate_key, load_private_key
from edgeexit.wire import BrokerConfig
from tests.agent.fleet import Fleet
from tests.broker import RealBroker
from tests.bundles import make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def key_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calibrator's public key; the private one stands beside it."""
    return generate_key(tmp_path_factory.mktemp("keys") / "calibrator.pem")


@pytest.fixture(scope="session")
def key(key_path: Path) -> PrivateKey:
    return load_private_key(key_path.with_suffix(".pem"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RealBroker]:
    """A broker that is not started yet."""
    real = RealBroker(tmp_path)
    yield real
    real.stop()


@pytest.fixture
def fleet(broker: RealBroker, bundle: Bundle, key: PrivateKey) -> Iterator[Fleet]:
    """The cloud's end, connected to the started broker."""
    broker.start()
    cloud = Fleet(broker.url, bundle, key)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def config(tmp_path: Path, broker: RealBroker, key_path: Path) -> AgentConfig:
    """A device that reports quickly and audits nothing."""
    return AgentConfig(
        fleet="plant",
        device="press-7",
        state_dir=tmp_path / "state",
        trusted_keys=(key_path,),
        broker=BrokerConfig(url=broker.url),
        audit_fraction=0.0,
        report_interval_s=0.2,
        resend_s=0.5,
    )


@pytest.fixture
def changed(config: AgentConfig) -> Callable[..., AgentConfig]:
    """The configuration with other fields."""

    def change(**fields: Any) -> AgentConfig:
        return msgspec.structs.replace(config, **fields)

    return change


@pytest.fixture
def half() -> Rollout:
    """A rollout of a half that leaves `press-7` out (its salt was chosen so)."""
    return next(r for r in (Rollout(percent=50, salt=str(n)) for n in range(100)) if not r.includes("press-7"))
