"""Each audited sample is stored once, in whatever pieces and however often a device sends its audit."""

import itertools
from datetime import datetime, timezone

import msgspec
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.tables import AuditedSampleRow, AuditRow, DeviceRow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from edgeexit.policies.readout import readouts_to_bytes
from edgeexit.wire.audit_parts import split_audit
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.scenario import DEVICE, audits_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
_numbers = itertools.count()


def pieces(audit):
    """Return an audit, and all its parts at every depth."""
    halves = split_audit(audit) if len(audit.samples) > 1 else ()
    return [audit, *(piece for half in halves for piece in pieces(half))]


def store(database, address, audits):
    """Store audits in one batch; return the acknowledged numbers."""
    with database.writing() as session:
        stored = store_uplinks(session, [Uplink(address, audit) for audit in audits], now=NOW)
    return {number for receipt in stored.receipts for number in receipt.sequences}


def samples_of(database, address):
    """Return the stored readouts of a device, sorted."""
    query = select(AuditedSampleRow.readouts).join(AuditRow).join(DeviceRow).filter_by(device=address.device)
    with database.reading() as session:
        return sorted(session.scalars(query))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_sample_is_stored_once_whatever_pieces_arrive(database, bundle, data):
    address = DEVICE._replace(device=f"d{next(_numbers)}")
    every = [piece for audit in audits_of(bundle, 15, size=5) for piece in pieces(audit)]
    sent = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=30))
    size = data.draw(st.sampled_from([1, 4, 30]))
    for first in range(0, len(sent), size):
        batch = sent[first : first + size]
        assert store(database, address, batch) == {piece.sequence for piece in batch}
    expected = {readouts_to_bytes(sample.readouts()) for piece in sent for sample in piece.samples}
    assert samples_of(database, address) == sorted(expected)


def test_many_starts_in_one_batch_are_stored(database, bundle):
    [audit] = audits_of(bundle, 1)
    starts = [msgspec.structs.replace(audit, start=f"{number:016x}") for number in range(500)]
    store(database, DEVICE, starts)
    store(database, DEVICE, starts)
    assert len(samples_of(database, DEVICE)) == 500


@ON_SQLITE
def test_numbers_that_are_far_apart_cost_no_more_than_others(database, bundle):
    [audit] = audits_of(bundle, 1)
    leaves = [2**50 + 512 * number + 256 + place for number in range(10, 50) for place in range(256)]
    store(database, DEVICE, [msgspec.structs.replace(audit, sequence=number) for number in leaves])
    steps = {numbers: steps_of(database, audit, numbers) for numbers in [(1, 2), (3, 2**50 - 1)]}
    assert steps[3, 2**50 - 1] < steps[1, 2] + 20  # reading what lies between takes hundreds


def steps_of(database, audit, numbers):
    """Return the work of SQLite to store audits with these numbers, in units of 100 instructions."""
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    with database.engine.connect() as connection:
        connection.connection.set_progress_handler(count, 100)
    store(database, DEVICE, [msgspec.structs.replace(audit, sequence=number) for number in numbers])
    with database.engine.connect() as connection:
        connection.connection.set_progress_handler(None, 0)
    return steps
