"""What a process gains when another one on the same host was killed."""

import subprocess
import sys

import pytest
from edgeexit_calibration import open_database
from edgeexit_calibration.daemon.tenure import Tenure, TenureCallbacks
from edgeexit_calibration.store.leases import Leases
from edgeexit_calibration.store.shards import add_shards

from tests.calibration.daemon.test_small_parts import NOW
from tests.calibration.scenario import FLEET
from tests.postgres import postgres

_HOLD = """
import sys, time
from edgeexit_calibration import open_database
from edgeexit_calibration.store.leases import Leases, leader_lease, shard_lease
leases = Leases(open_database(sys.argv[1]), sys.argv[2], ttl_s=3600.0)
assert leases.acquire([leases.process, leader_lease(sys.argv[2]), shard_lease(sys.argv[2], "s0")])
print("holds", flush=True)
time.sleep(600)
"""


class Gains(TenureCallbacks):
    """Records what was gained."""

    def __init__(self):
        self.gained = []

    def gained_shard(self, shard):
        self.gained.append(shard)

    def gained_lead(self):
        self.gained.append("lead")


@pytest.fixture
def url():
    server = postgres()
    created = server.create_migrated()
    yield created
    server.drop(created)


def test_leases_of_a_killed_process_of_this_host_do_not_have_to_end_first(url, caplog):
    caplog.set_level("INFO")
    database = open_database(url)
    with database.writing() as session:
        add_shards(session, FLEET, ["s0"], now=NOW)
    other = subprocess.Popen([sys.executable, "-c", _HOLD, url, FLEET], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "holds\n"
        tenure, gains = Tenure(database, FLEET), Gains()
        tenure.step(gains)
        assert gains.gained == []  # it runs
        other.kill()
    tenure.step(gains)
    assert sorted(gains.gained) == ["lead", "s0"]
    live = [lease for lease in Leases(database, FLEET).all_of_fleet().values() if lease.remaining_s > 0]
    assert len({lease.owner for lease in live}) == 1
    assert "which has ended" in caplog.text
    database.close()
