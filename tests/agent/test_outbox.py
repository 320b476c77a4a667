"""Which messages the outbox keeps, and how it works without a usable disk."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeexit.agent.outbox import FILE, Outbox, OutboxKind
from edgeexit.wire import Ack, Audit, Report, decode
from tests.agent.messages import make_audit, make_report

MAX_BYTES = 64 * 1024


def open_outbox(folder: Path) -> Outbox:
    return Outbox(folder, max_bytes=MAX_BYTES)


def unacknowledged(outbox: Outbox) -> list[tuple[OutboxKind, int]]:
    """Return kind and sequence number of all unacknowledged messages."""
    kinds: tuple[OutboxKind, ...] = ("report", "audit")
    found = [(kind, sequence) for kind in kinds for sequence in outbox.pending(kind, limit=10_000)]
    assert outbox.count == len(found), "the running count is correct"
    return found


def read_reports(outbox: Outbox) -> list[Report]:
    return [decode(outbox.payload(n) or b"", Report) for n in outbox.pending("report", limit=1000)]


def acknowledge_all(outbox: Outbox) -> int:
    return outbox.acknowledge(Ack(start=outbox.start, sequences=tuple(n for _, n in unacknowledged(outbox))))


@contextmanager
def full_disk(size: int = 0) -> Iterator[None]:
    """Limit the files of this process to `size` bytes, like a full disk."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_messages_are_numbered_and_stored_until_they_are_acknowledged(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    outbox.add(make_report())
    before = unacknowledged(outbox)
    assert [kind for kind, _ in before] == ["report", "audit"]
    (_, report), (_, audit) = before
    assert report > audit
    message = decode(outbox.payload(audit) or b"", Audit)
    assert (message.outbox, message.sequence) == (outbox.identity, audit)

    assert outbox.acknowledge(Ack(outbox="another", sequences=(audit,))) == 0
    assert unacknowledged(outbox) == before
    assert outbox.acknowledge(Ack(start=outbox.start, sequences=(audit, audit, 12345))) == 1
    assert unacknowledged(outbox) == [("report", report)]
    assert outbox.payload(audit) is None
    assert (outbox.holds(report), outbox.holds(audit)) == (True, False)


def test_pending_returns_at_most_limit_messages_in_order(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(5):
        outbox.add(make_audit())
    every = outbox.pending("audit", limit=9)
    assert every == sorted(every)
    assert len(every) == 5
    assert outbox.pending("audit", limit=2) == every[:2]
    assert outbox.pending("audit", after=every[1], limit=2) == every[2:4]
    assert outbox.pending("report", limit=2) == []


def test_only_the_newest_report_per_boot_and_revision_is_stored(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for revision, reached in ((0, 1), (0, 2), (3, 3), (0, 4)):
        outbox.add(make_report(revision=revision, reached=reached))
    outbox.add(make_report(boot=2, reached=5))
    assert sorted((r.boot, r.revision, r.exits[0].reached) for r in read_reports(outbox)) == [
        (1, 0, 4),
        (1, 3, 3),
        (2, 0, 5),
    ]


def test_a_restart_keeps_identity_and_messages_and_increments_the_boot(tmp_path: Path) -> None:
    first = open_outbox(tmp_path)
    first.add(make_audit())
    identity, boot, before = first.identity, first.boot, unacknowledged(first)
    first.close()
    second = open_outbox(tmp_path)
    assert (second.identity, second.boot) == (identity, boot + 1)
    assert unacknowledged(second) == before
    acknowledge_all(second)
    second.add(make_audit())
    assert unacknowledged(second)[0] > before[0]


def test_a_full_outbox_drops_the_oldest_audits_and_counts_them(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_report())
    for _ in range(20):
        outbox.add(make_audit(samples=80))  # about 6.6 KB each
    remaining = outbox.pending("audit", limit=100)
    assert remaining == list(range(remaining[-1] - len(remaining) + 1, remaining[-1] + 1))
    stored = sum(len(outbox.payload(n) or b"") for _, n in unacknowledged(outbox))
    assert MAX_BYTES - 8000 < stored <= MAX_BYTES
    assert outbox.dropped == 20 - len(remaining) > 0
    outbox.add(make_report())
    assert read_reports(outbox)[0].dropped == outbox.dropped, "reports are dropped after audits, and contain the count"
    dropped = outbox.dropped
    outbox.close()
    assert open_outbox(tmp_path).dropped == dropped


def test_acknowledged_and_replaced_messages_do_not_count_towards_the_size(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(30):
        outbox.add(make_audit(samples=80))
        outbox.add(make_report())
        outbox.acknowledge(Ack(start=outbox.start, sequences=tuple(outbox.pending("audit", limit=10))))
    outbox.close()
    again = open_outbox(tmp_path)
    for _ in range(8):
        again.add(make_audit(samples=80))
    assert again.dropped == 0


def test_the_oldest_reports_are_dropped_when_there_are_no_audits(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for boot in range(300):
        outbox.add(make_report(boot=boot))
    boots = [report.boot for report in read_reports(outbox)]
    assert boots == list(range(300 - len(boots), 300))
    assert 10 < len(boots) < 300


def test_without_a_folder_the_outbox_works_in_memory_and_logs_it_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    outbox = open_outbox(tmp_path / "file" / "state")
    outbox.add(make_report())
    outbox.add(make_audit())
    assert outbox.in_memory
    assert acknowledge_all(outbox) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is not usable" in caplog.text


def test_with_a_full_disk_at_the_start_the_outbox_works_in_memory(tmp_path: Path) -> None:
    with full_disk():
        outbox = open_outbox(tmp_path)
        outbox.add(make_audit())
    assert outbox.in_memory
    assert len(unacknowledged(outbox)) == 1


def test_when_the_disk_fills_up_the_outbox_continues_in_memory_with_its_messages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    identity, before = outbox.identity, unacknowledged(outbox)
    with full_disk():
        outbox.add(make_audit())
        outbox.add(make_report(boot=outbox.boot))
        after = unacknowledged(outbox)
    assert outbox.in_memory
    assert outbox.identity == identity
    assert before[0] in after
    assert [kind for kind, _ in after] == ["report", "audit", "audit"]
    assert len(caplog.records) == 1

    outbox.close()
    later = open_outbox(tmp_path)
    assert unacknowledged(later) == before, "the disk still holds the earlier messages"
    later.add(make_audit())
    assert unacknowledged(later)[-1][1] > after[0][1], "numbers used in memory are not used again"


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b""], ids=["garbage", "empty"])
def test_a_damaged_database_is_renamed_and_replaced(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE).write_bytes(damage)
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    assert not outbox.in_memory
    assert len(unacknowledged(outbox)) == 1
    if damage:
        assert (tmp_path / "outbox.broken").read_bytes() == damage


def test_damage_in_the_middle_of_the_database_is_detected_at_the_start(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(5):
        outbox.add(make_audit(samples=80))
    identity = outbox.identity
    outbox.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[4096 * 2 :] = b"\xa5" * (len(content) - 4096 * 2)
    (tmp_path / FILE).write_bytes(content)
    recreated = open_outbox(tmp_path)
    assert not recreated.in_memory
    assert recreated.identity != identity
    recreated.add(make_audit())
    assert len(unacknowledged(recreated)) == 1


def test_a_second_outbox_on_the_same_folder_does_not_change_the_first(tmp_path: Path) -> None:
    first = open_outbox(tmp_path)
    second = open_outbox(tmp_path)
    assert second.in_memory
    assert second.identity != first.identity
    second.add(make_audit())
    first.add(make_report())
    assert [kind for kind, _ in unacknowledged(first)] == ["report"]
    assert not first.in_memory


_ADDING_LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.agent.messages import make_audit, make_report
from tests.agent.test_outbox import acknowledge_all, open_outbox, unacknowledged
outbox = open_outbox(Path(sys.argv[1]))
while True:
    outbox.add(make_audit())
    outbox.add(make_report(boot=outbox.boot))
    sys.stdout.write(f"{len(unacknowledged(outbox))}\\n")
    sys.stdout.flush()
    if len(unacknowledged(outbox)) > 20:
        acknowledge_all(outbox)
"""


def test_a_kill_while_adding_loses_no_stored_message(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for turn in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _ADDING_LOOP, str(state), str(Path(__file__).parents[2])],
            stdout=subprocess.PIPE,
            text=True,
        ) as loop:
            assert loop.stdout is not None
            first = loop.stdout.readline()
            time.sleep(0.05 + 0.02 * turn)
            loop.kill()
            count = int((first + loop.stdout.read()).split("\n")[-2])
        outbox = open_outbox(state)
        assert not outbox.in_memory
        grown = {count, count + 1, count + 2}
        assert len(unacknowledged(outbox)) in (grown | {0, 1, 2} if count > 20 else grown)
        assert outbox.boot == 2 * turn + 2
        outbox.close()
