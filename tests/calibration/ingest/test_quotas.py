"""What one device may send is bounded, and what it does not get does not concern other devices."""

from datetime import datetime, timezone

import msgspec
import pytest
from edgeexit_calibration import Quotas, cohorts, devices
from edgeexit_calibration.ingest.quotas import QuotaCheck, RateLimit
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.tables import ProfileRow
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from edgeexit.latency import LatencyProfile
from tests.calibration.scenario import DEVICE, FLEET, audits_of, head_of, report_of, state_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
DIGEST = "f" * 64
OTHER = DEVICE._replace(device="camera-2")


class Clock:
    """A monotonic clock that the test sets."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def test_a_rate_limit_permits_a_burst_and_then_its_rate():
    limit, paid_s = RateLimit(3, 0.5), 0.0

    def take(now_s, count=1):
        nonlocal paid_s
        after_s = limit.paid_at(paid_s, now_s, count)
        paid_s = paid_s if after_s is None else after_s
        return after_s is not None

    assert [take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [take(2.0), take(2.0)] == [True, False]
    assert sum(take(1000.0) for _ in range(10)) == 3
    assert [take(2000.0, 4), take(2000.0, 3), take(2001.0), take(2002.0)] == [False, True, False, True]


@given(
    burst=st.integers(1, 50),
    per_s=st.floats(0.01, 1000),
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 60)), max_size=40),
)
def test_no_sender_gets_more_than_burst_and_rate_in_any_span(burst, per_s, steps):
    limit, paid_s, now_s, admitted = RateLimit(burst, per_s), 0.0, 1000.0, []
    for pause_s, count in steps:
        now_s += pause_s
        after_s = limit.paid_at(paid_s, now_s, count)
        if after_s is not None:
            paid_s = after_s
            admitted.append((now_s, count))
    for i, (first_s, _) in enumerate(admitted):
        for j in range(i, len(admitted)):
            span_s = admitted[j][0] - first_s
            assert sum(count for _, count in admitted[i : j + 1]) <= (burst + span_s * per_s) * (1 + 1e-6)


def test_a_device_that_floods_is_limited_and_others_are_not(clock):
    check = QuotaCheck(Quotas(messages_per_minute=60, message_burst=5), clock=clock)
    assert [check.admits_message(DEVICE, 10) is None for _ in range(7)] == [True] * 5 + [False] * 2
    assert check.admits_message(OTHER, 10) is None
    clock.now_s += 2.0
    assert [check.admits_message(DEVICE, 10) is None for _ in range(3)] == [True, True, False]


def test_audits_cohorts_and_series_are_limited_and_known_ones_stay_permitted(clock, bundle):
    quotas = Quotas(audits_per_hour=200, audit_burst=200, new_cohorts_per_day=2, new_series_per_day=2)
    check = QuotaCheck(quotas, clock=clock)
    audit = audits_of(bundle, 100)[0]
    assert [check.admits(DEVICE, audit, 1) for _ in range(3)] == [None, None, "more than 200 audits an hour"]
    states = [state_of(f"{number:064x}") for number in range(3)]
    assert [check.admits(DEVICE, state, 1) is None for state in states] == [True, False, False]
    assert check.admits(DEVICE, states[0], 1) is None
    reports = [report_of(bundle.digest, sequence=1, start=f"{number:016x}") for number in range(3)]
    assert [check.admits(DEVICE, head_of(report), 1) is None for report in (*reports, reports[0])] == [
        True,
        True,
        False,
        True,
    ]
    assert check.admits(DEVICE, head_of(report_of(bundle.digest, sequence=1, revision=9)), 1) == (
        "more than 2 starts and revisions a day"
    )
    clock.now_s += 86400
    assert all(check.admits(DEVICE, message, 1) is None for message in (states[1], head_of(reports[2]), audit))


def test_what_is_remembered_of_a_hostile_device_is_bounded(clock):
    check = QuotaCheck(Quotas(new_series_per_day=10_000, max_devices=3), clock=clock)
    for number in range(1000):
        check.admits(DEVICE, head_of(report_of(DIGEST, sequence=1, start=f"{number:016x}")), 1)
        check.admits_message(DEVICE._replace(device=f"d{number}"), 10)
    known = {**check._devices, **check._earlier}
    assert len(known) <= 6
    assert all(len(usage.series) <= 16 for usage in known.values())


def test_a_device_that_sends_keeps_its_usage_while_others_are_forgotten(clock):
    check = QuotaCheck(Quotas(messages_per_minute=1, message_burst=50, max_devices=3), clock=clock)
    admitted = 0
    for number in range(100):
        check.admits_message(DEVICE._replace(device=f"d{number}"), 10)
        admitted += check.admits_message(DEVICE, 10) is None
    assert admitted == 50


def test_the_bytes_of_a_device_are_limited(clock):
    check = QuotaCheck(Quotas(bytes_per_day=86_400, byte_burst=3000), clock=clock)
    assert [check.admits_message(DEVICE, 1000) for _ in range(4)] == [None] * 3 + ["more than 86400 bytes a day"]
    assert check.admits_message(OTHER, 3000) is None
    clock.now_s += 1000
    assert [check.admits_message(DEVICE, size) is None for size in (1000, 1, 0)] == [True, False, True]


def ingest(database, uplinks, **quotas):
    with database.writing() as session:
        return store_uplinks(session, uplinks, now=NOW, rules=IngestRules(quotas=Quotas(**quotas)))


def test_devices_and_cohorts_beyond_the_limits_of_the_fleet_are_not_stored(database):
    def reports(count):
        return [Uplink(DEVICE._replace(device=f"d{n}"), report_of(DIGEST, sequence=n)) for n in range(count)]

    stored = ingest(database, reports(5), max_devices=3)
    assert len(devices(database)) == 3
    assert sum(len(receipt.sequences) for receipt in stored.receipts) == 3
    assert [drop.cause for drop in stored.drops] == ["too many devices"] * 2
    assert len(ingest(database, reports(5), max_devices=3).receipts) == 3  # the known devices are still stored

    named = [
        Uplink(DEVICE._replace(device="d0"), report_of(f"{n:064x}", sequence=n, start=f"{n:015x}a")) for n in range(5)
    ]
    stored = ingest(database, named, max_unregistered_cohorts=3)
    assert len(cohorts(database, fleet=FLEET)) == 3
    assert [drop.cause for drop in stored.drops] == ["too many cohorts"] * 3


def test_only_the_newest_profiles_of_a_device_are_stored(database):
    profile = LatencyProfile(
        bundle=DIGEST, machine="m", runtime="r", threads=1, batch=1, cold_load_ms=1.0, first_run_ms=1.0, stages=()
    )
    for number in (*range(5), 4):
        ingest(database, [Uplink(DEVICE, msgspec.structs.replace(profile, bundle=f"{number:064x}"))], profiles=2)
    with database.reading() as session:
        assert [int(bundle, 16) for bundle in session.scalars(select(ProfileRow.bundle))] == [3, 4]
    check = QuotaCheck(Quotas(profile_bytes=100))
    assert check.admits(DEVICE, profile, 101) == "a profile of more than 100 bytes"
