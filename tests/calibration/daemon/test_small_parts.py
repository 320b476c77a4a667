"""Parts of the calibrator process that need no broker: the line about its health, shards, signals."""

import signal
import subprocess
import sys
from datetime import datetime, timezone

import pytest
from edgeexit_calibration.daemon.client_ids import consumer_client_id, leader_client_id
from edgeexit_calibration.daemon.health import Health, health_line
from edgeexit_calibration.daemon.shard_discovery import ShardDiscovery
from edgeexit_calibration.store import shards as shards_module
from edgeexit_calibration.store.installation import installation_id
from edgeexit_calibration.store.shards import known_shards

from tests.calibration.scenario import FLEET

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def known(database):
    with database.reading() as session:
        return known_shards(session, FLEET)


def test_the_line_about_health_has_rates_since_the_last_one():
    before = Health(stored=1000, dropped=5, waiting=0, commit_s=0.01, shards="all", leads=True)
    now = Health(stored=13_000, dropped=7, waiting=1200, commit_s=0.25, shards="2 of 3 connected", leads=False)
    line = health_line(before, now, 600.0)
    assert line == (
        "health: 20.0 messages/s stored, 2 dropped, 1,200 waiting, last commit 250 ms, shards: 2 of 3 connected, "
        "not leader"
    )


def test_the_leader_finds_shards_by_the_topics_of_states(database):
    woken = []
    discovery = ShardDiscovery(database, fleet=FLEET, on_new=lambda: woken.append(1))
    for topic in (
        f"edgeexit/v1/{FLEET}/s1/a/up/state",
        f"edgeexit/v1/{FLEET}/s1/b/up/state",
        f"edgeexit/v1/{FLEET}/policy/a/up/state",
        f"edgeexit/v1/{FLEET}/calibrator/a/up/state",
        f"edgeexit/v1/{FLEET}/s 2/a/up/state",
        "edgeexit/v1/other/s3/a/up/state",
        "",
    ):
        discovery.on_topic(topic)
    discovery.add_new(now=NOW)
    assert known(database) == {"s1"}
    assert len(woken) == 1
    discovery.on_topic(f"edgeexit/v1/{FLEET}/s1/c/up/state")
    discovery.on_topic(f"edgeexit/v1/{FLEET}/s4/c/up/state")
    discovery.add_new(now=NOW)
    assert known(database) == {"s1", "s4"}
    assert len(woken) == 2


def test_a_hostile_device_cannot_create_more_shards_than_the_maximum(database, monkeypatch, caplog):
    monkeypatch.setattr(shards_module, "MAX_SHARDS", 10)
    monkeypatch.setattr("edgeexit_calibration.daemon.shard_discovery.MAX_SHARDS", 10)
    discovery = ShardDiscovery(database, fleet=FLEET, on_new=lambda: None)
    for _ in range(3):
        for number in range(50):
            discovery.on_topic(f"edgeexit/v1/{FLEET}/h{number}/a/up/state")
        discovery.add_new(now=NOW)
    assert len(known(database)) == 10
    assert caplog.text.count("does a device invent shards?") == 1


def test_a_database_has_one_name_for_ever(database):
    assert installation_id(database) == installation_id(database)
    assert len(installation_id(database)) == 16


def test_no_shard_has_the_client_id_of_the_leader():
    ids = {consumer_client_id(FLEET, "0" * 16, shard) for shard in (None, "leader", "s0")}
    assert leader_client_id(FLEET, "0" * 16) not in ids
    assert len(ids) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_that_does_not_stop(number):
    code = (
        "import threading, time\n"
        "from edgeexit.cli.calibrator.run_command import _stop_on_signals\n"
        "stop = threading.Event()\n"
        "_stop_on_signals(stop)\n"
        "print('ready', flush=True)\n"
        "stop.wait()\n"
        "print('stopping', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(number)
        assert process.wait(30) in (-number, 1)
