"""A full disk under an SQLite database: nothing is half-written, and the service continues when there is space."""

import threading
from datetime import datetime, timezone

import pytest
from edgeexit_calibration import DatabaseError, exit_mix, open_database
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.rules import IngestRules
from edgeexit_calibration.store.cohorts import CohortAddress
from edgeexit_calibration.store.tables import FleetRow
from sqlalchemy import func, select

from edgeexit.wire import Delivery, up_topic
from tests.calibration.scenario import COHORT, DEVICE, FLEET, payload_of, report_of, until
from tests.disks import fill, small_disk

DIGEST = "d" * 64


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "small", kilobytes=3000) as mounted:
        yield mounted


def _fleets(database):
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(FleetRow))


def _add_two(database, number):
    with database.writing() as session:
        for name in (f"{number}a", f"{number}b"):
            text = "x" * 3000
            session.add(
                FleetRow(fleet=name, drops={"invalid": 1}, last_drop=text, last_drop_at=datetime.now(timezone.utc))
            )


def _add_until_full(database):
    """Return how many transactions were committed before the disk was full."""
    numbers = iter(range(10_000))
    with pytest.raises(DatabaseError, match="free space on the disk"):
        all(_add_two(database, f"filling {number}") is None for number in numbers)
    return next(numbers) - 1


def test_a_transaction_on_a_full_disk_is_rolled_back_and_later_ones_are_stored(disk):
    database = open_database(str(disk / "calibrator.sqlite"))
    filler = disk / "filler"
    filler.write_bytes(bytes(1_000_000))
    written = _add_until_full(database)
    assert _fleets(database) == 2 * written
    with pytest.raises(DatabaseError):
        _add_two(database, "still full")
    filler.unlink()
    _add_two(database, "again")
    assert _fleets(database) == 2 * written + 2
    with database.reading() as session:
        assert session.connection().exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    database.close()


def test_messages_that_arrive_while_the_disk_is_full_are_stored_and_acknowledged_later(disk, caplog):
    database, sent, stop = open_database(str(disk / "calibrator.sqlite"), busy_timeout_s=0.1), [], threading.Event()
    intake = Intake(database, sent.extend, fleet=FLEET, rules=IngestRules())
    topic = up_topic(DEVICE, "report")

    def deliver(sequence):
        report = report_of(DIGEST, sequence=sequence, counts=(sequence, 0, 0))
        return intake.store([Delivery(topic=topic, payload=payload_of(topic, report), qos=1)], stop)

    assert deliver(1)
    filler = fill(disk)
    _add_until_full(database)
    before = len(sent)
    outcomes = []
    storing = threading.Thread(target=lambda: outcomes.append(deliver(2)))
    storing.start()
    until(lambda: "pausing acknowledgements" in caplog.text)
    assert len(sent) == before
    assert outcomes == []
    filler.unlink()
    storing.join(20)
    assert outcomes == [True]
    assert len(sent) > before
    assert exit_mix(database, CohortAddress(FLEET, DIGEST, COHORT)).samples == 2
    database.close()
