"""Simulated fleets against a real broker, a real calibrator and real databases."""

import numpy as np
import pytest
from edgeexit_calibration import register
from edgeexit_calibration.store.counts import pack_counts, unpack_counts
from edgeexit_calibration.store.tables import (
    AuditedSampleRow,
    CohortBucketRow,
    CohortRow,
    DeviceBucketRow,
    DeviceRow,
    SeriesRow,
)
from edgeexit_calibration.views.stored_totals import stored_fleet
from sqlalchemy import delete, select, update

from edgeexit.errors import ConfigError
from edgeexit.key_set import TrustedKeys
from edgeexit.signing import load_public_key
from edgeexit.simulate import BrokerAccess, FleetEvents, parse_drift, simulate_fleet
from edgeexit.wire import BrokerConfig
from tests.broker import free_ports
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.scenario import COHORT, DELTA, FLEET, RISK
from tests.simulate.fleets import options_of


def test_nothing_is_lost_double_or_wrong(serve, simulate):
    serve()
    outcome = simulate()
    assert outcome.reports == outcome.acknowledged_reports + outcome.superseded_reports == 200
    assert outcome.audits == outcome.acknowledged_audits > 0
    assert outcome.database.groups == ()
    assert outcome.is_exact
    assert (outcome.unanswered, outcome.refused, outcome.refused_for_now) == (0, {}, {})
    assert outcome.ack_p50_s <= outcome.ack_p99_s


def test_the_difference_is_zero_with_all_events_at_once(serve, simulate):
    serve()
    events = FleetEvents(
        churn=20.0, restarts=40.0, stragglers=20.0, clock_jumps=20.0, clones=2, malicious=6,
        drift=parse_drift("disagreeing:0.5@1s"),
    )  # fmt: skip
    outcome = simulate(events=events, devices=30, rate=200.0, reports=None, duration_s=5.0)
    assert outcome.database.groups == ()
    assert outcome.acknowledged_reports > 0
    assert {"churn", "restarts", "clock jumps", "times offline", "drift"} <= set(outcome.events)
    assert len(outcome.malicious) == 6
    assert outcome.malicious_refused > 0


@ON_SQLITE
def test_a_second_run_continues_with_the_same_devices_and_counts_only_its_own_messages(serve, simulate, database):
    serve()
    assert simulate().is_exact
    outcome = simulate(seed=0, reports=100)
    assert outcome.database.groups == ()
    with database.reading() as session:
        assert len(session.scalars(select(DeviceRow)).all()) == 12


@ON_SQLITE
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_each_device_may_have_a_connection_of_its_own(serve, simulate, version):
    serve()
    events = FleetEvents(restarts=60.0)
    outcome = simulate(version=version, connections=12, rate=100.0, reports=None, duration_s=3.0, events=events)
    assert outcome.connections == 12
    assert outcome.database.groups == ()
    assert outcome.events["restarts"] > 0
    assert outcome.reconnects > 0  # a restart of an agent ends its connection


@ON_SQLITE
def test_devices_apply_the_policies_that_the_calibrator_publishes(serve, simulate, database, bundle, key, model):
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="tester")
    serve()
    keys = TrustedKeys.configured(FLEET, trusted=[load_public_key(key.with_suffix(".pub"))])
    outcome = simulate(keys=keys, rate=100.0, reports=None, duration_s=4.0)
    assert outcome.database.groups == ()
    assert list(outcome.revisions) == [1]


def _delete_report(session, device):
    session.delete(session.scalars(select(SeriesRow).filter_by(device_id=device.id)).first())


def _change_counters(session, device):
    row = session.scalars(select(SeriesRow).filter_by(device_id=device.id)).first()
    row.counts = row.counts[:-1] + bytes([row.counts[-1] ^ 1])


def _change_bucket(session, device):
    row = session.scalars(select(SeriesRow).filter_by(device_id=device.id)).first()
    counts = row.counts[:1] + bytes([4, 0, 0, 1, 0, 0, 0])  # one sample more
    values = {"width_s": 900, "begin_s": 0, "revision": row.revision, "cohort_id": row.cohort_id, "counts": counts}
    session.add(DeviceBucketRow(device_id=device.id, **values))


def _delete_buckets(session, device):
    session.execute(update(SeriesRow).filter_by(device_id=device.id).values(base=SeriesRow.counts))


def _delete_all_buckets(session, _device):
    session.execute(update(SeriesRow).values(base=SeriesRow.counts))
    session.execute(delete(CohortBucketRow))


def _change_cohort_bucket(session, _device):
    """Move one sample from a bin to another one: the number of samples stays."""
    row = session.scalars(select(CohortBucketRow)).first()
    counts = unpack_counts(row.counts)
    first, second = 2 + np.flatnonzero(counts[2:])[:2]
    counts[[first, second]] += 1, -1
    row.counts = pack_counts(counts)


def _double_sample(session, device):
    row = session.scalars(select(AuditedSampleRow)).first()
    fields = ("audit_id", "cohort_id", "revision", "exits", "exit", "disagrees", "readouts", "label", "counted")
    session.add(AuditedSampleRow(**{field: getattr(row, field) for field in fields}))


def _change_state(session, device):
    device.state = device.state.replace('"online":false', '"online":true')


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (_delete_report, "lost", "was acknowledged and is not stored"),
        (_change_counters, "wrong", "are not those that were sent"),
        (_change_bucket, "double", "its buckets of time count"),
        (_delete_buckets, "lost", "its buckets of time count 0 samples"),
        (_delete_all_buckets, "lost", "its buckets of time count 0 samples"),
        (_change_cohort_bucket, "wrong", "the buckets of the cohort count"),
        (_double_sample, "double", "samples are stored, only"),
        (_change_state, "wrong", "the newest state has start"),
    ],
)
@ON_SQLITE
def test_a_damaged_database_is_noticed_and_named(serve, simulate, database, monkeypatch, damage, kind, named):
    monkeypatch.setattr("edgeexit.simulate.run._CATCH_UP_S", 3.0)
    _, stop = serve()
    damaged = []

    def totals():
        found = stored_fleet(database, FLEET)
        if not damaged and _is_complete(found):
            stop()
            with database.writing() as session:
                damage(session, session.scalars(select(DeviceRow).filter_by(device="sim-00003")).one())
            damaged.append(True)
            found = stored_fleet(database, FLEET)
        return found

    outcome = simulate(totals=totals)
    assert damaged
    assert not outcome.is_exact
    found = [one for group in outcome.database.groups for one in group.first]
    assert (kind, True) in [(one.kind, named in one.text) for one in found]


def _is_complete(found) -> bool:
    return len(found.devices) == 12 and not any(device.online for device in found.devices.values())


@ON_SQLITE
def test_without_a_calibrator_everything_is_reported_as_not_answered(simulate):
    outcome = simulate(reports=24, settle_s=0.5, compare=False)
    assert outcome.acknowledged_reports == 0
    assert outcome.unanswered == outcome.reports + outcome.audits
    assert outcome.reports_per_s is None


@ON_SQLITE
def test_a_database_without_differences_is_not_exact_if_nothing_was_acknowledged(simulate):
    outcome = simulate(reports=24, settle_s=0.5)
    assert outcome.database.differences == 0
    assert not outcome.is_exact


@ON_SQLITE
def test_the_totals_of_another_fleet_lack_everything(serve, simulate, database, monkeypatch):
    monkeypatch.setattr("edgeexit.simulate.run._CATCH_UP_S", 0.5)
    serve()
    outcome = simulate(totals=lambda: stored_fleet(database, "other"))
    assert [(group.kind, group.what, group.count) for group in outcome.database.groups] == [("lost", "device", 12)]


def test_a_broker_that_is_not_reachable_is_named(model):
    (port,) = free_ports(1)
    access = BrokerAccess(BrokerConfig(url=f"mqtt://127.0.0.1:{port}"))
    with pytest.raises(ConfigError, match=f"broker 'mqtt://127.0.0.1:{port}' is not reachable: .*refused"):
        simulate_fleet(options_of(), model, access)


def test_a_websocket_is_refused_in_a_clear_line(model):
    access = BrokerAccess(BrokerConfig(url="ws://127.0.0.1:1"))
    with pytest.raises(ConfigError, match=r"mqtt:// or mqtts:// without a proxy, not 'ws://127.0.0.1:1'"):
        simulate_fleet(options_of(), model, access)


def test_more_connections_than_open_files_are_refused_with_the_remedy(model):
    access = BrokerAccess(BrokerConfig())
    with pytest.raises(ConfigError, match=r"--connections 1000000000 needs 1000000064 open files.*ulimit -n"):
        simulate_fleet(options_of(devices=10**9, connections=10**9), model, access)


def test_the_cohort_of_the_devices_is_the_one_that_is_compared(serve, simulate, database):
    serve()
    assert simulate().is_exact
    with database.reading() as session:
        assert [row.cohort for row in session.scalars(select(CohortRow))] == [COHORT]
