"""The comparison of ledgers with a calibrator's database notices what is lost, double or wrong."""

import sqlite3
from pathlib import Path

import pytest
from edgeexit_calibration.store.counts import counts_of, pack_counts

from edgeexit.latency import BIN_COUNT
from edgeexit.policies.readout import readouts_to_bytes
from edgeexit.wire import SCORE_BINS, Audit, AuditedSample, ExitCounters, Report
from scripts.chaoslab.ledger import Balance, Entry, LedgerFile, compare, message_entry, read_ledger, read_tail
from scripts.chaoslab.stored import StoredDatabase

START = "00112233445566aa"


def audit(*p1: float) -> Audit:
    samples = tuple(AuditedSample(exit=0, top1=(1, 2), p1=(p, p), p2=(0.1, 0.1), entropy=(0.5, 0.5)) for p in p1)
    return Audit(start=START, sequence=0, bundle="b" * 64, cohort="c", revision=1, samples=samples)


def report(exited: int) -> Report:
    counters = ExitCounters(reached=exited, exited=exited, scores=(0,) * SCORE_BINS, latency=(0,) * BIN_COUNT)
    return Report(
        start=START, sequence=0, bundle="b" * 64, cohort="c", revision=1, uptime_s=1.0, exits=(counters, counters)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An SQLite file with the tables and columns of a calibrator's database that are read."""
    path = tmp_path / "calibrator.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE device (id, device); INSERT INTO device VALUES (1, 'd');"
            "CREATE TABLE audit (id, device_id); INSERT INTO audit VALUES (1, 1);"
            "CREATE TABLE audited_sample (audit_id, readouts);"
            "CREATE TABLE series (device_id, start, revision, counts, base, PRIMARY KEY (device_id, start, revision));"
            "CREATE TABLE device_bucket (device_id, revision, counts);"
        )
    return path


@pytest.fixture
def database(path: Path) -> StoredDatabase:
    return StoredDatabase(f"sqlite:///{path}")


def store(path: Path, *messages: Audit | Report) -> None:
    with sqlite3.connect(path) as connection:
        for message in messages:
            if isinstance(message, Audit):
                rows = [(1, readouts_to_bytes(sample.readouts())) for sample in message.samples]
                connection.executemany("INSERT INTO audited_sample VALUES (?, ?)", rows)
            else:
                counts = counts_of(message)
                base = pack_counts((counts + 1) // 2)  # the rest is in the newest bucket
                row = (1, START, message.revision, pack_counts(counts), base)
                connection.execute("INSERT INTO series VALUES (?, ?, ?, ?, ?)", row)
                connection.execute("INSERT INTO device_bucket VALUES (?, ?, ?)", (1, message.revision, base))


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def commit(ledger: Path, message: Audit | Report, *, killed: bool = False) -> None:
    file = LedgerFile(ledger)
    file.write(message_entry("adding", START, message))
    if not killed:
        file.write(Entry(kind="added"))


def test_what_is_committed_and_stored_once_is_exact(ledger, path, database):
    commit(ledger, audit(0.5, 0.6))
    commit(ledger, report(1))
    commit(ledger, report(2))
    store(path, audit(0.5, 0.6), report(2))
    assert compare([ledger], database) == Balance(samples=2, reports=1)


def test_a_divided_audit_is_exact(ledger, path, database):
    commit(ledger, audit(0.5, 0.6))
    store(path, audit(0.5), audit(0.6))
    assert compare([ledger], database).exact


def test_a_missing_sample_is_lost(ledger, path, database):
    commit(ledger, audit(0.5, 0.6))
    store(path, audit(0.5))
    assert compare([ledger], database).lost_samples == 1


def test_a_sample_that_is_stored_twice_is_double(ledger, path, database):
    commit(ledger, audit(0.5))
    store(path, audit(0.5), audit(0.5))
    assert compare([ledger], database).double_samples == 1


def test_an_older_report_is_lost(ledger, path, database):
    commit(ledger, report(1))
    commit(ledger, report(2))
    store(path, report(1))
    assert compare([ledger], database).lost_reports == 1


def test_a_missing_report_is_lost(ledger, path, database):
    commit(ledger, report(1))
    assert compare([ledger], database).lost_reports == 1


def test_a_report_that_no_agent_has_made_is_wrong(ledger, path, database):
    commit(ledger, report(1))
    store(path, report(7))
    assert compare([ledger], database).wrong_reports == 1


def test_a_bucket_that_was_counted_twice_is_wrong(ledger, path, database):
    commit(ledger, report(1))
    store(path, report(1))
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO device_bucket SELECT * FROM device_bucket")
    balance = compare([ledger], database)
    assert (balance.wrong_buckets, balance.exact) == (1, False)


@pytest.mark.parametrize("stored", [True, False])
def test_a_message_may_be_stored_or_not_if_its_agent_was_killed_meanwhile(ledger, path, database, stored):
    commit(ledger, report(1))
    commit(ledger, audit(0.5), killed=True)
    store(path, report(1), *([audit(0.5)] if stored else []))
    assert compare([ledger], database).exact


@pytest.mark.parametrize("newest", [1, 2])
def test_the_last_report_may_be_stored_or_not_if_its_agent_was_killed_meanwhile(ledger, path, database, newest):
    commit(ledger, report(1))
    commit(ledger, report(2), killed=True)
    store(path, report(newest))
    assert compare([ledger], database).exact


def test_an_incomplete_last_line_is_left_out(ledger):
    LedgerFile(ledger).write(Entry(kind="ready"))
    with ledger.open("ab") as file:
        file.write(b'{"kind":"ti')
    assert [entry.kind for entry in read_ledger(ledger)] == ["ready"]


@pytest.mark.parametrize("lines", [0, 1, 3000])
def test_the_tail_is_the_last_lines(ledger, lines):
    file = LedgerFile(ledger)
    for number in range(lines):
        file.write(Entry(kind="tick", inferences=number))
    tail = read_tail(ledger)
    everything = list(read_ledger(ledger))
    assert tail == everything[len(everything) - len(tail) :]
    assert len(tail) >= min(lines, 500)
