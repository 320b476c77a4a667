"""Fixtures: a broker, the cloud's end of the connection, a device's configuration, a bundle, and policies."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeexit.agent import AgentConfig
from edgeexit.agent.policy.check import Recipient
from edgeexit.bundle import Bundle
from edgeexit.key_set import TrustedKeys
from edgeexit.policies import PolicyDocument, Rollout, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, generate_key, load_private_key, sign
from edgeexit.wire import BrokerConfig
from tests.agent.fleet import Fleet
from tests.broker import RealBroker
from tests.bundles import make_bundle

MakeDocument = Callable[..., PolicyDocument]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def key_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the calibrator's public key; the private key is in the same folder."""
    return generate_key(tmp_path_factory.mktemp("keys") / "calibrator.pem")


@pytest.fixture(scope="session")
def key(key_path: Path) -> PrivateKey:
    """The calibrator's private key."""
    return load_private_key(key_path.with_suffix(".pem"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RealBroker]:
    """A broker that is not started yet."""
    real = RealBroker(tmp_path)
    yield real
    real.stop()


@pytest.fixture
def fleet(broker: RealBroker, bundle: Bundle, key: PrivateKey) -> Iterator[Fleet]:
    """The cloud's end of the connection; starts the broker and connects to it."""
    broker.start()
    cloud = Fleet(broker.url, bundle, key)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def config(tmp_path: Path, broker: RealBroker, key_path: Path) -> AgentConfig:
    """A device with a short report interval and no audits."""
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
    """Return a function that returns `config` with some fields replaced."""

    def change(**fields: Any) -> AgentConfig:
        return msgspec.structs.replace(config, **fields)

    return change


@pytest.fixture
def half() -> Rollout:
    """A rollout to half of the devices; its salt is chosen so that `press-7` is not among them."""
    return next(r for r in (Rollout(percent=50, salt=str(n)) for n in range(100)) if not r.includes("press-7"))


@pytest.fixture
def trusted(key: PrivateKey) -> TrustedKeys:
    """The keys of a device that trusts the calibrator's key for everything."""
    return TrustedKeys.configured("plant", trusted=[key.public_key()])


@pytest.fixture
def recipient(bundle: Bundle) -> Recipient:
    return Recipient(fleet="plant", device="press-7", cohort="presses", bundle=bundle.digest, exits=3, classes=4)


@pytest.fixture
def make_document(bundle: Bundle) -> MakeDocument:
    """Return a function that returns a policy document for `recipient`, with some fields replaced."""

    def document(revision: int = 5, *, exits: int = 3, **fields: Any) -> PolicyDocument:
        policy = Confidence(temperatures=(1.0,) * exits, thresholds=(0.5,) * (exits - 1))
        fitting = {"bundle": bundle.digest, "scope": Scope(fleet="plant", cohort="presses"), "policy": policy}
        return PolicyDocument(revision=revision, **{**fitting, **fields})

    return document


@pytest.fixture
def make_envelope(make_document: MakeDocument, key: PrivateKey) -> Callable[..., bytes]:
    """Return a function that returns the signed envelope of a policy document; see `make_document`."""

    def envelope(
        revision: int = 5, *, signed_by: PrivateKey = key, payload_type: str = PAYLOAD_TYPE, **fields: Any
    ) -> bytes:
        return sign(encode_document(make_document(revision, **fields)), payload_type=payload_type, keys=[signed_by])

    return envelope
