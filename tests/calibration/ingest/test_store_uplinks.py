"""Storing messages: the result does not depend on their order, nor on duplicates; each audit is stored once."""

import itertools
from collections import Counter
from datetime import datetime, timezone

import msgspec
import pytest
from edgeexit_calibration import CohortAddress, audit_watermark, devices, disagreement, exit_mix
from edgeexit_calibration.ingest.uplink import Uplink, read_uplink
from edgeexit_calibration.store import tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeexit.latency import BIN_COUNT
from edgeexit.wire import (
    MAX_EXITS,
    SCORE_BINS,
    AuditedSample,
    DeviceAddress,
    ExitCounters,
    Rejection,
    Reversion,
    encode,
    up_topic,
)
from tests.calibration.scenario import COHORT, FLEET, audits_of, report_of, state_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
DIGEST = "b" * 64
_fleets = (f"fleet-{n}" for n in itertools.count())


def ingest(database, uplinks, *, size=500):
    receipts = []
    for start in range(0, len(uplinks), size):
        with database.writing() as session:
            receipts += store_uplinks(session, uplinks[start : start + size], now=NOW).receipts
    return receipts


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_order_of_messages_and_duplicates_do_not_change_the_result(database, bundle, data):
    fleet = next(_fleets)
    addresses = [DeviceAddress(fleet, "s0", name) for name in ("a", "b")]
    sent = [
        Uplink(address, report_of(bundle.digest, sequence=3 * n + boot, counts=(n, 2 * n, boot), start=f"{boot:016}"))
        for address in addresses
        for boot in (1, 2)
        for n in range(1, 5)
    ]
    sent += [Uplink(address, audit) for address in addresses for audit in audits_of(bundle, 12, size=4)]
    newest = (2 * (4 + 4), 2 * (8 + 8), 2 * (1 + 2))  # two devices, boots 1 and 2, their last reports
    duplicates = data.draw(st.lists(st.sampled_from(sent), max_size=20))
    ingest(database, data.draw(st.permutations(sent + duplicates)), size=data.draw(st.integers(1, 40)))
    cohort = CohortAddress(fleet, bundle.digest, COHORT)
    assert exit_mix(database, cohort, revision=1).counts == newest
    assert disagreement(database, cohort).samples == 2 * 12
    assert [device.audited_samples for device in devices(database, fleet=fleet)] == [12, 12]


def test_missing_reports_do_not_change_the_counters(database):
    cohort = CohortAddress("gap", DIGEST, COHORT)
    address = DeviceAddress("gap", "s0", "a")
    ingest(database, [Uplink(address, report_of(DIGEST, sequence=n, counts=(n, n, n))) for n in (1, 9, 4)])
    assert exit_mix(database, cohort).counts == (9, 9, 9)
    assert exit_mix(database, cohort).mean_latency_ms == pytest.approx(1.0, rel=0.2)


def test_every_duplicate_of_a_message_is_acknowledged(database, bundle):
    address = DeviceAddress(FLEET, "s0", "a")
    audit = audits_of(bundle, 3)[0]
    older, newer = report_of(DIGEST, sequence=5), report_of(DIGEST, sequence=6)
    first = ingest(database, [Uplink(address, message) for message in (audit, newer)])
    again = ingest(database, [Uplink(address, message) for message in (older, audit, newer, audit)])
    assert Counter(first[0].sequences) == Counter([0, 6])
    assert Counter(again[0].sequences) == Counter([5, 0, 6])
    with database.reading() as session:
        assert session.query(tables.AuditRow).count() == 1
        assert session.query(tables.AuditedSampleRow).count() == 3


def test_the_same_sequence_of_another_start_or_device_is_another_audit(database, bundle):
    audit = audits_of(bundle, 2)[0]
    renewed = msgspec.structs.replace(audit, start="1" * 16)
    a, b = DeviceAddress(FLEET, "s0", "a"), DeviceAddress(FLEET, "s0", "b")
    receipts = ingest(database, [Uplink(a, audit), Uplink(b, audit), Uplink(a, renewed)])
    assert {(receipt.address.device, receipt.start) for receipt in receipts} == {
        ("a", "0" * 16), ("b", "0" * 16), ("a", "1" * 16),
    }  # fmt: skip
    assert audit_watermark(database, CohortAddress(FLEET, bundle.digest, COHORT)) == 6


def test_a_failed_transaction_stores_nothing(database, bundle):
    address = DeviceAddress(FLEET, "s0", "a")
    uplinks = [Uplink(address, audit) for audit in audits_of(bundle, 10)]
    with pytest.raises(ZeroDivisionError), database.writing() as session:
        store_uplinks(session, uplinks, now=NOW).receipts.append(1 / 0)
    assert devices(database) == []


def test_the_largest_messages_that_the_schemas_allow_are_stored_and_can_be_read(database):
    address = DeviceAddress(FLEET, "s0", "a" * 64)
    full = 2**53
    exits = tuple(
        ExitCounters(
            reached=full - k,
            exited=1,
            scores=((full - k) // SCORE_BINS,) * SCORE_BINS,
            latency=(1, *(0,) * (BIN_COUNT - 1)),
        )
        for k in range(MAX_EXITS)
    )
    report = msgspec.structs.replace(report_of(DIGEST, sequence=2**63 - 1), exits=exits, failed=full)
    longest = "\N{COLLISION SYMBOL}" * 300
    state = state_of(
        DIGEST,
        problems=(longest,) * 8,
        rejected=Rejection(reason=longest, revision=2),
        reverted=Reversion(reason=longest, revision=2),
    )
    state = msgspec.structs.replace(state, agent="\\" * 64, policy="\\" * 64, cohort="c" * 64)
    ingest(
        database,
        [
            read_uplink(up_topic(address, "report"), encode(report)),
            read_uplink(up_topic(address, "state"), encode(state)),
        ],
    )
    assert exit_mix(database, CohortAddress(FLEET, DIGEST, COHORT)).samples == MAX_EXITS
    assert devices(database)[0].problems == (longest,) * 8


def test_a_repeated_state_does_not_change_last_seen(database):
    address = DeviceAddress(FLEET, "s0", "a")
    later = datetime(2025, 6, 1, tzinfo=timezone.utc)
    ingest(database, [Uplink(address, state_of(DIGEST, revision=3))])
    with database.writing() as session:
        store_uplinks(session, [Uplink(address, state_of(DIGEST, revision=3))], now=later)
    [device] = devices(database)
    assert (device.online, device.revision, device.last_seen) == (True, 3, NOW)
    with database.writing() as session:
        store_uplinks(session, [Uplink(address, state_of(DIGEST, revision=3, online=False))], now=later)
    [device] = devices(database)
    assert (device.online, device.last_seen) == (False, later)


def test_disagreement_compares_the_returned_prediction_with_the_final_exit(database, bundle):
    """A policy that votes can return another class than the top-1 class of its exit."""
    figures = {"p1": (0.5,) * 3, "p2": (0.2,) * 3, "entropy": (1.0,) * 3}
    samples = (
        AuditedSample(exit=1, top1=(0, 1, 1), **figures),
        AuditedSample(exit=1, top1=(0, 1, 1), prediction=0, **figures),
        AuditedSample(exit=1, top1=(0, 1, 0), prediction=0, **figures),
        AuditedSample(exit=1, top1=(0, 1, 0), **figures),
        AuditedSample(exit=2, top1=(0, 1, 1), prediction=0, **figures),
    )
    audit = msgspec.structs.replace(audits_of(bundle, 1)[0], samples=samples)
    address = DeviceAddress("predictions", "s0", "a")
    ingest(database, [Uplink(address, audit)])
    with database.reading() as session:
        stored = [row.disagrees for row in session.query(tables.AuditedSampleRow).order_by(tables.AuditedSampleRow.id)]
    assert stored == [False, True, False, True, False]


def test_the_largest_sequence_number_is_stored(database):
    address = DeviceAddress(FLEET, "s0", "a")
    assert ingest(database, [Uplink(address, report_of(DIGEST, sequence=2**63 - 1))])[0].sequences == (2**63 - 1,)
