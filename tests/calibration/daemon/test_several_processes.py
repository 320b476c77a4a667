"""Several processes of one fleet on PostgreSQL, which are killed, paused and cut off under load."""

import random
import signal
import time

import pytest
from edgeexit_calibration import open_database, policy_history, register

from edgeexit.policies import decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import load_private_key, verify
from edgeexit.wire import policy_topic
from tests.broker import Mosquitto
from tests.calibration.daemon.calibrators import (
    CalibratorProcess,
    Crowd,
    LeaseWatch,
    audited,
    database_template,
    stored,
)
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK, Client
from tests.postgres import postgres

LEASE_S = 4.0
SHARDS, DEVICES = 8, 2
LIMIT_S = 90.0


class Fleet:
    """Three processes, a broker, a database and devices."""

    def __init__(self, tmp_path, key, bundle):
        self.server = postgres()
        self.url = self.server.create_migrated()
        self.database = open_database(self.url)
        self.cohort = register(
            self.database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="ada"
        ).cohort
        self.broker = Mosquitto(tmp_path / "broker", lines=["max_queued_messages 0", "max_inflight_messages 0"])
        self.broker.start()
        self.processes = [
            CalibratorProcess(
                f"p{number}",
                tmp_path,
                database_url=database_template(self.url),
                database_port=self.server.port,
                broker_port=self.broker.port,
                lease_s=LEASE_S,
            )
            for number in range(3)
        ]
        self.watch = LeaseWatch(self.database)
        self.key = load_private_key(key)
        self.crowd = Crowd(self.broker.port, bundle, shards=SHARDS, devices=DEVICES, key=self.key)

    def until(self, condition):
        """Let devices send until a condition holds."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            self.watch.look()
            self.crowd.send_round()
            self.crowd.resend()
            time.sleep(0.1)

    def until_acknowledged(self):
        """Send again until everything is acknowledged."""
        deadline = time.monotonic() + LIMIT_S
        while self.crowd.waiting:
            assert time.monotonic() < deadline, self.logs()
            self.watch.look()
            self.crowd.resend()
            time.sleep(0.1)

    def shares(self):
        """Return how many shards each process owns, the most first."""
        return sorted(self.watch.owned().values(), reverse=True)

    def logs(self):
        return "\n".join(f"{one.name}: {one.log.read_text()[-3000:]}" for one in self.processes)

    def check(self, bundle):
        """Check that every report and audit is stored once, and that one process led in each term."""
        self.until_acknowledged()
        samples = 5 * self.crowd.round + 5
        expected = [2 * self.crowd.round, samples, samples]
        assert stored(self.database) == {address.device: expected for address in self.crowd.addresses}
        assert audited(self.database) == len(self.crowd.addresses) * self.crowd.round
        assert all(len(owners) == 1 for owners in self.watch.owners.values())
        assert self.crowd.counters == sorted(self.crowd.counters)  # a new leader publishes the last one again
        device = Client(self.broker, policy_topic(*self.cohort))
        self.until(lambda: self.published(device) == policy_history(self.database, self.cohort)[-1].revision)
        device.close()
        for text in ("UniqueViolation", "deadlock", "Traceback"):
            assert text not in self.logs()

    def published(self, device):
        """Return the revision that is retained on the broker; None if there is none yet."""
        messages = device.of(policy_topic(*self.cohort))
        if not messages:
            return None
        content = verify(messages[-1], payload_type=PAYLOAD_TYPE, keys=[self.key.public_key()])
        return decode_document(content).revision

    def close(self):
        for process in self.processes:
            process.close()
        self.crowd.close()
        self.broker.stop()
        self.database.close()
        self.server.drop(self.url)


@pytest.fixture
def fleet(tmp_path, key, bundle):
    running = Fleet(tmp_path, key, bundle)
    yield running
    running.close()


def test_processes_share_the_shards_and_take_over_those_of_one_that_is_paused_cut_off_killed_or_stopped(fleet, bundle):
    first, second, third = random.Random(3).sample(fleet.processes, 3)  # noqa: S311 - any order
    fleet.until(lambda: fleet.shares() == [3, 3, 2])
    first.send(signal.SIGSTOP)
    fleet.until(lambda: fleet.shares() == [4, 4])
    first.send(signal.SIGCONT)
    fleet.until(lambda: fleet.shares() == [3, 3, 2])
    second.database.cut(silently=False)
    fleet.until(lambda: fleet.shares() == [4, 4])
    second.database.recover(reset_frozen=True)
    fleet.until(lambda: fleet.shares() == [3, 3, 2])
    third.broker.cut(silently=False)
    third.broker.recover(reset_frozen=True)
    first.kill()
    fleet.until(lambda: fleet.shares() == [4, 4])
    assert second.end() == 0
    fleet.until(lambda: fleet.shares() == [8])
    fleet.check(bundle)
