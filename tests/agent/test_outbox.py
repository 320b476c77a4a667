"""What the outbox keeps, for how long, and what it does when the disk cannot be used."""

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
from edgeexit.latency import BIN_COUNT
from edgeexit.wire import SCORE_BINS, Ack, Audit, AuditedSample, ExitCounters, Report, decode

MAX_BYTES = 64 * 1024


def make_report(boot: int = 1, revision: int = 0, reached: int = 1) -> Report:
    counters = ExitCounters(reached=reached, exited=0, scores=(0,) * SCORE_BINS, latency=(0,) * BIN_COUNT)
    return Report(
        outbox="",
        sequence=0,
        bundle="a" * 64,
        cohort="c",
        boot=boot,
        revision=revision,
        uptime_s=1,
        exits=(counters,) * 2,
    )


def make_audit(samples: int = 1) -> Audit:
    sample = AuditedSample(exit=0, top1=(1, 2), p1=(0.5, 0.5), p2=(0.25, 0.25), entropy=(1.0, 1.0))
    return Audit(outbox="", sequence=0, bundle="a" * 64, cohort="c", boot=1, revision=0, samples=(sample,) * samples)


def open_outbox(folder: Path) -> Outbox:
    return Outbox(folder, max_bytes=MAX_BYTES)


def waiting(outbox: Outbox) -> list[tuple[OutboxKind, int]]:
    """Kind and sequence of everything that waits."""
    kinds: tuple[OutboxKind, ...] = ("report", "audit")
    found = [(kind, sequence) for kind in kinds for sequence in outbox.pending(kind, limit=10_000)]
    assert outbox.count == len(found), "the running count is right"
    return found


def read_reports(outbox: Outbox) -> list[Report]:
    return [decode(outbox.payload(n) or b"", Report) for n in outbox.pending("report", limit=1000)]


def acknowledge_all(outbox: Outbox) -> int:
    return outbox.acknowledge(Ack(outbox=outbox.identity, sequences=tuple(n for _, n in waiting(outbox))))


@contextmanager
def no_more_room(size: int = 0) -> Iterator[None]:
    """No file of this process can grow past `size` bytes, as on a disk that is full."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_messages_are_numbered_upwards_and_wait_until_acknowledged(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    outbox.add(make_report())
    before = waiting(outbox)
    assert [kind for kind, _ in before] == ["report", "audit"]
    (_, report), (_, audit) = before
    assert report > audit
    message = decode(outbox.payload(audit) or b"", Audit)
    assert (message.outbox, message.sequence) == (outbox.identity, audit)

    assert outbox.acknowledge(Ack(outbox="another", sequences=(audit,))) == 0
    assert waiting(outbox) == before
    assert outbox.acknowledge(Ack(outbox=outbox.identity, sequences=(audit, audit, 12345))) == 1
    assert waiting(outbox) == [("report", report)]
    assert outbox.payload(audit) is None
    assert (outbox.holds(report), outbox.holds(audit)) == (True, False)


def test_what_waits_is_listed_in_pieces(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(5):
        outbox.add(make_audit())
    every = outbox.pending("audit", limit=9)
    assert every == sorted(every)
    assert len(every) == 5
    assert outbox.pending("audit", limit=2) == every[:2]
    assert outbox.pending("audit", after=every[1], limit=2) == every[2:4]
    assert outbox.pending("report", limit=2) == []


def test_only_the_newest_report_of_a_boot_and_revision_is_kept(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for revision, reached in ((0, 1), (0, 2), (3, 3), (0, 4)):
        outbox.add(make_report(revision=revision, reached=reached))
    outbox.add(make_report(boot=2, reached=5))
    assert sorted((r.boot, r.revision, r.exits[0].reached) for r in read_reports(outbox)) == [
        (1, 0, 4),
        (1, 3, 3),
        (2, 0, 5),
    ]


def test_a_restart_keeps_identity_and_messages_and_counts_the_boot(tmp_path: Path) -> None:
    first = open_outbox(tmp_path)
    first.add(make_audit())
    identity, boot, before = first.identity, first.boot, waiting(first)
    first.close()
    second = open_outbox(tmp_path)
    assert (second.identity, second.boot) == (identity, boot + 1)
    assert waiting(second) == before
    acknowledge_all(second)
    second.add(make_audit())
    assert waiting(second)[0] > before[0]


def test_past_its_bound_it_drops_the_oldest_audits_and_tells_how_many(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_report())
    for _ in range(20):
        outbox.add(make_audit(samples=80))  # about 6.6 KB each
    kept = outbox.pending("audit", limit=100)
    assert kept == list(range(kept[-1] - len(kept) + 1, kept[-1] + 1))
    stored = sum(len(outbox.payload(n) or b"") for _, n in waiting(outbox))
    assert MAX_BYTES - 8000 < stored <= MAX_BYTES
    assert outbox.dropped == 20 - len(kept) > 0
    outbox.add(make_report())
    assert read_reports(outbox)[0].dropped == outbox.dropped, "the report is kept before any audit, and tells"
    dropped = outbox.dropped
    outbox.close()
    assert open_outbox(tmp_path).dropped == dropped


def test_what_was_acknowledged_or_replaced_takes_up_no_room(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(30):
        outbox.add(make_audit(samples=80))
        outbox.add(make_report())
        outbox.acknowledge(Ack(outbox=outbox.identity, sequences=tuple(outbox.pending("audit", limit=10))))
    outbox.close()
    again = open_outbox(tmp_path)
    for _ in range(8):
        again.add(make_audit(samples=80))
    assert again.dropped == 0


def test_reports_of_old_boots_go_when_nothing_else_is_left_to_drop(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for boot in range(300):
        outbox.add(make_report(boot=boot))
    boots = [report.boot for report in read_reports(outbox)]
    assert boots == list(range(300 - len(boots), 300))
    assert 10 < len(boots) < 300


def test_where_the_folder_cannot_be_made_it_works_in_memory_and_says_so_once(
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


def test_without_room_at_the_start_it_works_in_memory(tmp_path: Path) -> None:
    with no_more_room():
        outbox = open_outbox(tmp_path)
        outbox.add(make_audit())
    assert outbox.in_memory
    assert len(waiting(outbox)) == 1


def test_when_the_disk_fills_up_it_goes_on_in_memory_with_what_it_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    identity, before = outbox.identity, waiting(outbox)
    with no_more_room():
        outbox.add(make_audit())
        outbox.add(make_report(boot=outbox.boot))
        after = waiting(outbox)
    assert outbox.in_memory
    assert outbox.identity == identity
    assert before[0] in after
    assert [kind for kind, _ in after] == ["report", "audit", "audit"]
    assert len(caplog.records) == 1

    outbox.close()
    later = open_outbox(tmp_path)
    assert waiting(later) == before, "the disk still holds what it took"
    later.add(make_audit())
    assert waiting(later)[-1][1] > after[0][1], "numbers used in memory are not used again"


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b""], ids=["garbage", "empty"])
def test_a_broken_database_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE).write_bytes(damage)
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    assert not outbox.in_memory
    assert len(waiting(outbox)) == 1
    if damage:
        assert (tmp_path / "outbox.broken").read_bytes() == damage


def test_a_database_damaged_in_the_middle_is_found_at_the_start(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(5):
        outbox.add(make_audit(samples=80))
    identity = outbox.identity
    outbox.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[4096 * 2 :] = b"\xa5" * (len(content) - 4096 * 2)
    (tmp_path / FILE).write_bytes(content)
    anew = open_outbox(tmp_path)
    assert not anew.in_memory
    assert anew.identity != identity
    anew.add(make_audit())
    assert len(waiting(anew)) == 1


def test_a_second_agent_on_the_same_folder_does_not_touch_the_first_one_s_messages(tmp_path: Path) -> None:
    first = open_outbox(tmp_path)
    second = open_outbox(tmp_path)
    assert second.in_memory
    assert second.identity != first.identity
    second.add(make_audit())
    first.add(make_report())
    assert [kind for kind, _ in waiting(first)] == ["report"]
    assert not first.in_memory


_ADDING_LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_outbox import make_audit, make_report, open_outbox, acknowledge_all, waiting
outbox = open_outbox(Path(sys.argv[1]))
while True:
    outbox.add(make_audit())
    outbox.add(make_report(boot=outbox.boot))
    sys.stdout.write(f"{len(waiting(outbox))}\\n")
    sys.stdout.flush()
    if len(waiting(outbox)) > 20:
        acknowledge_all(outbox)
"""


def test_killed_while_adding_it_opens_again_and_lost_nothing_it_had_taken(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for turn in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _ADDING_LOOP, str(state), str(Path(__file__).parent)],
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
        assert len(waiting(outbox)) in (grown | {0, 1, 2} if count > 20 else grown)
        assert outbox.boot == 2 * turn + 2
        outbox.close()
