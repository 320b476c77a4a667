"""A registered cohort that gets new policies, and the comparison of the broker's policies with the database's."""

import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import paho.mqtt.client as paho
from edgeexit_calibration import open_database, register
from edgeexit_calibration.store.database import DatabaseError

from edgeexit.bundle import Bundle
from edgeexit.errors import EdgeExitError
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE, LatencyBound
from edgeexit.signing import PublicKey, verify
from edgeexit.wire import policy_topic
from scripts.chaoslab.stored import StoredDatabase
from scripts.chaoslab.waiting import GENEROUS_S, wait_until
from scripts.chaoslab.watcher import FLEET

COHORT = "default"
_RISK, _DELTA = 0.9, 0.1
"""So much risk is never exceeded, so only `renew` makes revisions."""
_BOUND_MS = 600_000.0
_ANSWER_S = 2.0


class PolicyComparison(NamedTuple):
    """Whether the retained policies of the broker equal those of the database."""

    equal: bool
    text: str


class CohortPolicies:
    """Registers the cohort of the laboratory's agents, again and again with another latency bound.

    Each registration adds a revision, which the calibrator publishes.

    Args:
        folder: a new folder for the bundle with its policy.
        bundle: the bundle of the agents.
        database: the calibrator's database, which is created if it does not exist.
        port: of the broker.
        key: the public key that verifies policies.

    """

    def __init__(self, folder: Path, bundle: Bundle, database: StoredDatabase, port: int, key: PublicKey) -> None:
        self.revision = 0
        """The newest revision whose registration has been committed."""
        self.database = database
        self._port = port
        self._key = key
        shutil.copytree(bundle.path, folder)
        self._bundle = Bundle.open(folder)
        exits = len(bundle.manifest.stages)
        policy = Confidence(temperatures=(1.0,) * exits, thresholds=(0.4,) * (exits - 1))
        self._bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy, certificate=None))
        self._turns = 0
        self.renew()

    def renew(self) -> bool:
        """Add a revision; return False if the database cannot be written now."""
        self._turns += 1
        bound = LatencyBound(quantile=0.99, ms=_BOUND_MS + self._turns)
        try:
            database = open_database(self.database.url)
            try:
                found = register(
                    database,
                    self._bundle,
                    fleet=FLEET,
                    cohort=COHORT,
                    risk=_RISK,
                    delta=_DELTA,
                    user="chaos",
                    max_latency=bound,
                )
            finally:
                database.close()
        except DatabaseError:
            return False
        self.revision = found.revision
        return True

    def compare(self) -> PolicyComparison:
        """Compare the retained policies of the broker with the database; wait until they are equal."""
        found: list[PolicyComparison] = []

        def equal() -> bool:
            found[:] = [self._compare()]
            return found[0].equal

        wait_until(equal, GENEROUS_S)
        return found[0]

    def _compare(self) -> PolicyComparison:
        current = {policy_topic(*address): content for address, content in self.database.policies().items()}
        retained = _retained(self._port, policy_topic(FLEET, "+", "+"), len(current))
        wrong = [topic for topic in current.keys() | retained.keys() if not self._is_signed(topic, current, retained)]
        text = f"{len(current)} in the database, up to revision {self.revision}; {len(wrong)} differ at the broker"
        return PolicyComparison(not wrong and bool(current), text)

    def _is_signed(self, topic: str, current: dict[str, bytes], retained: dict[str, bytes]) -> bool:
        try:
            content = verify(retained.get(topic, b""), payload_type=PAYLOAD_TYPE, keys=[self._key])
        except EdgeExitError:
            return False
        return content == current.get(topic)


def _retained(port: int, topics: str, expected: int) -> dict[str, bytes]:
    """Return the retained messages of a topic filter that a new client gets within a time: topic -> payload."""
    found: dict[str, bytes] = {}
    subscribed = threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _client, _user, message: found.__setitem__(message.topic, message.payload)
    client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    try:
        client.connect("127.0.0.1", port)
    except OSError:
        return found
    client.loop_start()
    wait_until(lambda: subscribed.is_set() and len(found) >= expected, _ANSWER_S)
    client.disconnect()
    client.loop_stop()
    return found
