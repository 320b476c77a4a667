"""Which messages the outbox keeps, under which names, and which give way when it is full."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from edgeexit.agent.outbox.outbox import FILE
from edgeexit.wire import MAX_BYTES as WIRE_MAX_BYTES
from edgeexit.wire import Ack, Audit, Losses, Refusal, decode
from tests.agent.messages import make_audit, make_report
from tests.agent.outboxes import (
    MAX_BYTES,
    Calibrator,
    acknowledge,
    entries,
    labels,
    open_outbox,
    read_audits,
    read_reports,
)


def test_messages_are_numbered_and_stored_until_they_are_acknowledged(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    outbox.add(make_report())
    report, audit = before = entries(outbox)
    assert [(one.kind, one.start, one.sequence) for one in before] == [
        ("report", outbox.start, 2),
        ("audit", outbox.start, 1),
    ]
    message = decode(outbox.payload(audit.id) or b"", Audit)
    assert (message.start, message.sequence) == (outbox.start, 1)

    assert not outbox.acknowledge(Ack(start="0" * 16, sequences=(1,))).stored
    assert entries(outbox) == before
    assert outbox.acknowledge(Ack(start=outbox.start, sequences=(1, 1, 12345))).stored == (audit.id,)
    assert entries(outbox) == [report]
    assert outbox.payload(audit.id) is None
    assert outbox.get(audit.id) is None


def test_pending_returns_at_most_limit_messages_in_order(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(5):
        outbox.add(make_audit())
    every = outbox.pending("audit", limit=9)
    assert [entry.sequence for entry in every] == [1, 2, 3, 4, 5]
    assert outbox.pending("audit", limit=2) == every[:2]
    assert outbox.pending("audit", after=every[1].id, limit=2) == every[2:4]
    assert outbox.pending("report", limit=2) == []


def test_a_start_has_a_new_name_and_keeps_the_messages_of_earlier_starts(tmp_path: Path) -> None:
    first = open_outbox(tmp_path)
    first.add(make_audit())
    first.close()
    second = open_outbox(tmp_path)
    assert second.start != first.start
    second.add(make_report())
    assert [(one.start, one.sequence) for one in entries(second)] == [(second.start, 1), (first.start, 1)]
    assert read_audits(second)[0].start == first.start
    assert read_reports(second)[0].start == second.start
    assert acknowledge(second, *entries(second)) == 2


def test_with_a_restored_outbox_every_message_is_stored_exactly_once(tmp_path: Path) -> None:
    """Three starts from the same old copy of the file, as with an image or an overlay that forgets."""
    calibrator, state, image = Calibrator(), tmp_path / "state", tmp_path / "image"
    outbox = open_outbox(state)
    for number in range(3):
        outbox.add(make_audit(2, first=10 * number))
    outbox.add(make_report(reached=1))
    outbox.close()
    shutil.copytree(state, image)
    expected = [0, 1, 10, 11, 20, 21]
    for boot in range(1, 4):
        shutil.rmtree(state)
        shutil.copytree(image, state)
        outbox = open_outbox(state)
        for number in range(5):
            first = 1000 * boot + 10 * number
            outbox.add(make_audit(2, first=first))
            expected += [first, first + 1]
            outbox.add(make_report(reached=boot * 100 + number))
        calibrator.take(outbox)
        assert outbox.count == 0
        outbox.close()
    assert calibrator.labels == expected
    assert sorted(report.exits[0].reached for report in calibrator.reports.values()) == [1, 104, 204, 304]


def test_two_live_clones_of_one_state_folder_store_all_their_messages_and_the_common_ones_once(tmp_path: Path) -> None:
    calibrator = Calibrator()
    outbox = open_outbox(tmp_path / "one")
    outbox.add(make_audit(first=7))
    outbox.close()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    clones = [open_outbox(tmp_path / name, max_bytes=1024 * 1024) for name in ("one", "two")]
    for number in range(200):
        for place, clone in enumerate(clones):
            clone.add(make_audit(first=1000 * (place + 1) + number))
    for clone in clones:
        calibrator.take(clone)
        assert clone.count == 0
    assert calibrator.labels == [7, *range(1000, 1200), *range(2000, 2200)]
    assert calibrator.duplicates == 1


def test_an_audit_that_is_split_again_after_a_rollback_is_stored_once(tmp_path: Path) -> None:
    calibrator, state, image = Calibrator(), tmp_path / "state", tmp_path / "image"
    outbox = open_outbox(state)
    outbox.add(make_audit(9, first=100))
    outbox.close()
    shutil.copytree(state, image)
    for _ in range(2):
        shutil.rmtree(state)
        shutil.copytree(image, state)
        outbox = open_outbox(state)
        for _ in range(4):  # 9, 5, 3, 2, 1
            for entry in entries(outbox):
                outbox.split(entry.id)
        numbers = [entry.sequence for entry in entries(outbox)]
        assert len(set(numbers)) == 9
        assert all(2**50 < number < 2**53 for number in numbers)
        calibrator.take(outbox)
        outbox.close()
    assert calibrator.labels == list(range(100, 109))
    assert calibrator.duplicates == 9


def test_a_split_replaces_an_audit_by_halves_of_the_same_start_which_a_restart_keeps(tmp_path: Path) -> None:
    first = open_outbox(tmp_path)
    first.add(make_audit(5))
    first.close()
    outbox = open_outbox(tmp_path)
    (audit,) = entries(outbox)
    assert outbox.split(audit.id)
    outbox.close()
    again = open_outbox(tmp_path)
    halves = read_audits(again)
    assert [len(half.samples) for half in halves] == [3, 2]
    assert {half.start for half in halves} == {first.start}
    assert labels(*halves) == list(range(5))
    again.add(make_audit(1))
    again.add(make_report())
    assert not any(again.split(entry.id) for entry in entries(again) if entry.start == again.start)
    assert not again.split(999)


def test_one_report_per_revision_and_quarter_of_an_hour_is_kept_until_one_is_acknowledged(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for reached, uptime_s in enumerate((10, 800, 901, 1700, 1801)):
        outbox.add(make_report(reached=reached, uptime_s=uptime_s))
    outbox.add(make_report(revision=3, reached=9, uptime_s=1802))
    assert [(report.revision, report.exits[0].reached) for report in read_reports(outbox)] == [
        (0, 1),
        (0, 3),
        (0, 4),
        (3, 9),
    ]
    second = entries(outbox, "report")[1]
    assert acknowledge(outbox, second) == 2, "the older one is useless now"
    assert [(report.revision, report.exits[0].reached) for report in read_reports(outbox)] == [(0, 4), (3, 9)]


def test_a_full_outbox_first_drops_reports_that_a_newer_one_contains(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    for window in range(300):
        outbox.add(make_report(reached=window, uptime_s=900 * window))
    reached = [report.exits[0].reached for report in read_reports(outbox)]
    assert reached == list(range(300 - len(reached), 300))
    assert 10 < len(reached) < 300
    assert outbox.losses == Losses(), "their windows are in the newer reports"
    assert len(entries(outbox, "audit")) == 1


def test_a_full_outbox_drops_the_oldest_audits_and_counts_them(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_report())
    for number in range(20):
        outbox.add(make_audit(samples=80, first=1000 * number))  # about 7.6 KB each
    remaining = [audit.samples[0].label for audit in read_audits(outbox)]
    assert remaining == [1000 * number for number in range(20 - len(remaining), 20)]
    stored = sum(entry.size for entry in entries(outbox))
    assert MAX_BYTES - 10_000 < stored <= MAX_BYTES
    assert outbox.losses == Losses(full=20 - len(remaining))
    outbox.add(make_report())
    assert read_reports(outbox)[0].losses == outbox.losses, "reports are dropped last, and contain the losses"
    losses = outbox.losses
    outbox.close()
    assert open_outbox(tmp_path).losses == losses


def test_the_oldest_reports_are_dropped_when_there_is_nothing_else(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for revision in range(300):
        outbox.add(make_report(revision=revision))
    revisions = [report.revision for report in read_reports(outbox)]
    assert revisions == list(range(300 - len(revisions), 300))
    assert 10 < len(revisions) < 300
    assert outbox.losses.full == 300 - len(revisions)


def test_acknowledged_and_replaced_messages_do_not_count_towards_the_size(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(30):
        outbox.add(make_audit(samples=80))
        outbox.add(make_report())
        acknowledge(outbox, *entries(outbox, "audit"))
    outbox.close()
    again = open_outbox(tmp_path)
    for _ in range(6):
        again.add(make_audit(samples=80))
    assert again.losses.full == 0


def test_with_a_lower_limit_than_before_the_oldest_messages_give_way_at_the_start(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, max_bytes=1024 * 1024)
    for _ in range(20):
        outbox.add(make_audit(samples=80))
    outbox.close()
    smaller = open_outbox(tmp_path)
    assert 0 < smaller.count < 10
    assert smaller.losses.full == 20 - smaller.count


def test_an_audit_larger_than_the_wire_or_the_outbox_is_split_when_it_is_added(tmp_path: Path) -> None:
    for max_bytes in (MAX_BYTES, 16 * 1024 * 1024):
        outbox = open_outbox(tmp_path / str(max_bytes), max_bytes=max_bytes)
        samples = 256
        wide = make_audit(samples)
        lists = {"top1": (1,) * 64, "p1": (0.123456789,) * 64, "p2": (0.1,) * 64, "entropy": (1.0,) * 64}
        if max_bytes > MAX_BYTES:
            wide = decode_with(wide, lists)
        outbox.add(wide)
        audits = read_audits(outbox)
        assert len(audits) > 1 or max_bytes == MAX_BYTES
        assert labels(*audits) == list(range(samples))
        assert all(entry.size <= WIRE_MAX_BYTES - 512 for entry in entries(outbox))
        assert outbox.losses == Losses()


def decode_with(audit: Audit, fields: dict[str, tuple[float, ...]]) -> Audit:
    """Return an audit whose samples have other fields."""
    samples = tuple(msgspec.structs.replace(sample, **fields) for sample in audit.samples)
    return msgspec.structs.replace(audit, samples=samples)


def test_a_message_that_can_never_be_sent_is_dropped_alone_and_counted_with_its_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_report(exits=200))
    outbox.add(make_report())
    assert outbox.count == 1
    assert outbox.losses.oversized == 1
    assert outbox.losses.largest_bytes > 32 * 1024
    outbox.add(make_audit())
    (audit,) = entries(outbox, "audit")
    outbox.drop_oversized(audit.id, size=5000, limit="the 4000 bytes that the broker takes")
    outbox.drop_oversized(audit.id, size=5000, limit="nothing: it is gone")
    assert (outbox.count, outbox.losses.oversized) == (1, 2)
    assert outbox.problem == "audit of 5000 bytes dropped: it is larger than the 4000 bytes that the broker takes"
    outbox.forget_too_large()
    assert outbox.problem is None
    assert f"Report of {outbox.losses.largest_bytes} bytes dropped" in caplog.text


def test_a_final_refusal_ends_a_message_and_another_one_postpones_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(40):
        outbox.add(make_audit())
    audits = entries(outbox)
    refused = [Refusal(sequence=entry.sequence, reason="its\nclass 9 is not one of 4") for entry in audits[:30]]
    waiting = [Refusal(sequence=entry.sequence, reason="not approved", final=False) for entry in audits[30:]]
    foreign = [Refusal(sequence=77, reason="nobody has sent it")]
    answer = outbox.acknowledge(Ack(start=outbox.start, refused=(*refused, *waiting, *foreign)))
    assert answer.refused == tuple(entry.id for entry in audits[:30])
    assert answer.postponed == tuple(entry.id for entry in audits[30:])
    assert entries(outbox) == audits[30:]
    assert outbox.losses == Losses(refused=30)
    assert [record.message for record in caplog.records] == [
        "the calibrator refuses audit 1, which is deleted: its class 9 is not one of 4",
        "the calibrator does not take audit 31 yet: not approved",
    ]
    outbox.close()
    assert open_outbox(tmp_path).losses == Losses(refused=30)


def test_a_second_outbox_on_the_same_folder_does_not_change_the_first(tmp_path: Path) -> None:
    first = open_outbox(tmp_path)
    second = open_outbox(tmp_path)
    assert second.in_memory
    assert "locked" in (second.problem or "")
    second.add(make_audit())
    first.add(make_report())
    assert [entry.kind for entry in entries(first)] == ["report"]
    assert not first.in_memory
    first.close()
    second.maintain(1.0)
    assert [entry.kind for entry in entries(second)] == ["report", "audit"], "the file is free now"
    assert not second.in_memory


_ADDING_LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.agent.messages import make_audit, make_report
from tests.agent.outboxes import acknowledge, entries, open_outbox
outbox = open_outbox(Path(sys.argv[1]))
while True:
    outbox.add(make_audit())
    outbox.add(make_report())
    sys.stdout.write(f"{outbox.count}\\n")
    sys.stdout.flush()
    if outbox.count > 20:
        acknowledge(outbox, *entries(outbox))
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
        assert outbox.losses == Losses()
        # It was killed while it added the next audit, or the next report, which replaces one, or acknowledged.
        assert outbox.count in {count, count + 1, count + 2} | (set(range(count)) if count > 20 else set())
        outbox.close()


def test_the_file_and_its_log_are_private(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path / "state")
    outbox.add(make_audit())
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_an_audit_in_an_unknown_form_is_not_split_and_holds_up_nothing(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit(4))
    (entry,) = entries(outbox)
    row = outbox._storage.read(entry.id)
    assert row is not None
    payload = row.payload.replace(b'"samples"', b'"renamed"')
    outbox._storage.write(delete=[entry], insert=[row._replace(payload=payload)])
    assert not outbox.split(entry.id)
