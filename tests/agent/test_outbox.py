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

from edgeexit.agent.outbox import FILE, Outbox
from edgeexit.latency import BIN_COUNT
from edgeexit.messages import SCORE_BINS, Ack, Audit, AuditedSample, ExitCounters, Report, decode

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


def read_reports(outbox: Outbox) -> list[Report]:
    return [decode(outbox.payload(m.sequence) or b"", Report) for m in outbox.waiting() if m.kind == "report"]


def acknowledge_all(outbox: Outbox) -> int:
    return outbox.acknowledge(Ack(outbox=outbox.identity, sequences=tuple(m.sequence for m in outbox.waiting())))


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
    waiting = outbox.waiting()
    assert [message.kind for message in waiting] == ["report", "audit"]
    report, audit = waiting
    assert report.sequence > audit.sequence
    message = decode(outbox.payload(audit.sequence) or b"", Audit)
    assert (message.outbox, message.sequence) == (outbox.identity, audit.sequence)

    assert outbox.acknowledge(Ack(outbox="another", sequences=(audit.sequence,))) == 0
    assert outbox.waiting() == waiting
    assert outbox.acknowledge(Ack(outbox=outbox.identity, sequences=(audit.sequence, 12345))) == 1
    assert outbox.waiting() == [report]
    assert outbox.payload(audit.sequence) is None


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
    identity, boot, waiting = first.identity, first.boot, first.waiting()
    first.close()
    second = open_outbox(tmp_path)
    assert (second.identity, second.boot) == (identity, boot + 1)
    assert second.waiting() == waiting
    acknowledge_all(second)
    second.add(make_audit())
    assert second.waiting()[0].sequence > waiting[0].sequence


def test_past_its_bound_it_drops_the_oldest_audits_and_tells_how_many(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_report())
    for _ in range(20):
        outbox.add(make_audit(samples=80))  # about 6.6 KB each
    kept = [message for message in outbox.waiting() if message.kind == "audit"]
    newest = kept[-1].sequence
    assert [message.sequence for message in kept] == list(range(newest - len(kept) + 1, newest + 1))
    assert sum(len(outbox.payload(m.sequence) or b"") for m in outbox.waiting()) <= MAX_BYTES
    assert outbox.dropped == 20 - len(kept) > 0
    outbox.add(make_report())
    assert read_reports(outbox)[0].dropped == outbox.dropped, "the report is kept before any audit, and tells"
    dropped = outbox.dropped
    outbox.close()
    assert open_outbox(tmp_path).dropped == dropped


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
    assert "cannot be used" in caplog.text


def test_without_room_at_the_start_it_works_in_memory(tmp_path: Path) -> None:
    with no_more_room():
        outbox = open_outbox(tmp_path)
        outbox.add(make_audit())
    assert outbox.in_memory
    assert len(outbox.waiting()) == 1


def test_when_the_disk_fills_up_it_goes_on_in_memory_with_what_it_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    identity, before = outbox.identity, outbox.waiting()
    with no_more_room():
        outbox.add(make_audit())
        outbox.add(make_report(boot=outbox.boot))
        after = outbox.waiting()
    assert outbox.in_memory
    assert outbox.identity == identity
    assert before[0] in after
    assert [message.kind for message in after] == ["report", "audit", "audit"]
    assert len(caplog.records) == 1

    outbox.close()
    later = open_outbox(tmp_path)
    assert later.waiting() == before, "the disk still holds what it took"
    later.add(make_audit())
    assert later.waiting()[-1].sequence > after[0].sequence, "numbers used in memory are not used again"


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b""], ids=["garbage", "empty"])
def test_a_broken_database_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE).write_bytes(damage)
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    assert not outbox.in_memory
    assert len(outbox.waiting()) == 1
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
    assert len(anew.waiting()) == 1


def test_a_second_agent_on_the_same_folder_does_not_touch_the_first_one_s_messages(tmp_path: Path) -> None:
    first = open_outbox(tmp_path)
    second = open_outbox(tmp_path)
    assert second.in_memory
    assert second.identity != first.identity
    second.add(make_audit())
    first.add(make_report())
    assert [message.kind for message in first.waiting()] == ["report"]
    assert not first.in_memory


_ADDING_LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_outbox import make_audit, make_report, open_outbox, acknowledge_all
outbox = open_outbox(Path(sys.argv[1]))
while True:
    outbox.add(make_audit())
    outbox.add(make_report(boot=outbox.boot))
    sys.stdout.write(f"{len(outbox.waiting())}\\n")
    sys.stdout.flush()
    if len(outbox.waiting()) > 20:
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
        assert len(outbox.waiting()) in (grown | {0, 1, 2} if count > 20 else grown)
        assert outbox.boot == 2 * turn + 2
        outbox.close()
