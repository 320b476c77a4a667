"""The outbox on a disk that fills up, disappears, is damaged or replaced: nothing stops, is lost or doubled."""

import contextlib
import os
import random
import resource
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeexit.agent.outbox import row_file
from edgeexit.agent.outbox.outbox import FILE, Outbox
from edgeexit.wire import Losses
from tests.agent.messages import make_audit, make_report
from tests.agent.outboxes import MAX_BYTES, acknowledge, entries, labels, open_outbox, read_audits
from tests.disks import fill, remount, small_disk


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


def stored(outbox: Outbox) -> list[int]:
    """Return the labels of all samples in the outbox; see `make_audit`."""
    return sorted(labels(*read_audits(outbox)))


def reopened(folder: Path, outbox: Outbox) -> list[int]:
    """Close the outbox and open the folder again; return the labels of all samples on the disk."""
    outbox.close()
    again = open_outbox(folder)
    assert not again.in_memory
    found = stored(again)
    again.close()
    return found


def filled(folder: Path, audits: int = 20, samples: int = 10) -> list[int]:
    """Fill the outbox of a folder with audits and a report; return the labels of the samples."""
    outbox = open_outbox(folder)
    for number in range(audits):
        outbox.add(make_audit(samples, first=number * samples))
    outbox.add(make_report())
    outbox.close()
    return list(range(audits * samples))


def test_without_a_folder_the_outbox_works_in_memory_and_names_the_problem(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    outbox = open_outbox(tmp_path / "file" / "state")
    outbox.add(make_report())
    outbox.add(make_audit())
    assert outbox.in_memory
    assert acknowledge(outbox, *entries(outbox)) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is not usable (File exists); messages are kept in memory" in (outbox.problem or "")

    outbox.add(make_audit(first=1))
    (tmp_path / "file").unlink()
    outbox.maintain(0.0)
    assert (outbox.in_memory, outbox.problem) == (False, None)
    assert reopened(tmp_path / "file" / "state", outbox) == [1]


def test_when_the_disk_fills_up_the_outbox_continues_in_memory_and_returns_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    for label in (1, 2, 3):
        outbox.add(make_audit(first=label))
    first, second, _ = entries(outbox)
    acknowledge(outbox, first)
    with full_disk():
        outbox.add(make_audit(first=4))
        assert outbox.in_memory
        assert "full" in (outbox.problem or "") or "I/O" in (outbox.problem or "")
        acknowledge(outbox, second)
        outbox.add(make_audit(first=5))
        assert stored(outbox) == [3, 4, 5]
        before = entries(outbox)
        outbox.maintain(0.0)
        assert outbox.in_memory
    outbox.maintain(1.0)
    assert outbox.in_memory, "the next attempt comes after 5 s"
    outbox.maintain(5.0)
    assert (outbox.in_memory, outbox.problem) == (False, None)
    assert entries(outbox) == before, "places, names and order stay"
    assert len(caplog.records) == 1
    outbox.add(make_audit(first=6))
    assert reopened(tmp_path, outbox) == [3, 4, 5, 6]


def test_a_full_small_disk_is_left_and_used_again_without_loss(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        outbox = open_outbox(disk / "state", max_bytes=1024 * 1024)
        added = 0
        filler = fill(disk)
        while not outbox.in_memory and added < 300:
            outbox.add(make_audit(20, first=20 * added))
            added += 1
        assert outbox.in_memory
        for _ in range(3):
            outbox.add(make_audit(20, first=20 * added))
            added += 1
        outbox.maintain(0.0)
        filler.unlink()
        outbox.maintain(10.0)
        outbox.maintain(1000.0)
        assert not outbox.in_memory
        outbox.close()
        again = open_outbox(disk / "state", max_bytes=1024 * 1024)
        assert stored(again) == list(range(20 * added))
        again.close()


def test_a_disk_that_becomes_read_only_is_left_and_used_again_without_loss(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        filled(disk / "state")
        remount(disk, read_only=True)
        outbox = open_outbox(disk / "state")
        assert outbox.in_memory
        outbox.add(make_audit(first=999))
        remount(disk, read_only=False)
        outbox.maintain(0.0)
        assert (outbox.in_memory, outbox.problem) == (False, None)
        assert stored(outbox) == [*range(200), 999]
        assert outbox.losses == Losses()
        outbox.close()


def test_the_pauses_between_attempts_double_up_to_five_minutes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outbox = open_outbox(tmp_path / "file" / "state")
    now, pauses = 0.0, []
    for _ in range(9):
        outbox.maintain(now)
        pauses.append(outbox.maintain_at - now)
        now = outbox.maintain_at
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_disk_that_fails_again_and_again_is_not_tried_at_once_each_time(tmp_path: Path) -> None:
    outbox, now = open_outbox(tmp_path), 0.0
    attempts = 0
    for second in range(600):
        with full_disk():
            outbox.add(make_audit(first=second))
        before = outbox.in_memory
        outbox.maintain(now := float(second))
        attempts += before and not outbox.in_memory
    assert now == 599
    assert attempts < 10


def test_in_memory_the_outbox_has_the_same_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outbox = open_outbox(tmp_path / "file" / "state")
    for number in range(20):
        outbox.add(make_audit(samples=80, first=1000 * number))
    assert sum(entry.size for entry in entries(outbox)) <= MAX_BYTES
    assert outbox.losses.full == 20 - outbox.count > 0


@pytest.mark.parametrize("how", ["removed", "renamed", "file removed", "log removed", "restored"])
def test_a_folder_that_is_removed_or_replaced_is_noticed_and_created_again(tmp_path: Path, how: str) -> None:
    folder, image = tmp_path / "state", tmp_path / "image"
    expected = filled(folder, audits=3)
    shutil.copytree(folder, image)
    outbox = open_outbox(folder)
    outbox.add(make_audit(first=900))
    acknowledge(outbox, entries(outbox, "audit")[0])
    if how == "renamed":
        folder.rename(tmp_path / "elsewhere")
    elif how == "file removed":
        (folder / FILE).unlink()
    elif how == "log removed":
        (folder / f"{FILE}-wal").unlink()
    else:
        shutil.rmtree(folder)
    if how == "restored":
        shutil.copytree(image, folder)
    outbox.add(make_audit(first=901))
    outbox.maintain(0.0)
    assert (outbox.in_memory, outbox.problem) == (False, None)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    outbox.add(make_audit(first=902))
    outbox.maintain(1.0)
    assert not outbox.in_memory, "it is noticed once"
    # A restored file has a message again that was acknowledged. It is sent once more, under the same name.
    expected = [*(expected if how == "restored" else expected[10:]), 900, 901, 902]
    assert stored(outbox) == expected
    assert outbox.losses == Losses()
    assert reopened(folder, outbox) == expected


def test_messages_of_another_file_that_appears_are_taken_too(tmp_path: Path) -> None:
    filled(tmp_path / "restored", audits=2, samples=1)
    outbox = open_outbox(tmp_path / "state")
    outbox.add(make_audit(first=500))
    sent = entries(outbox)[0].id
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "restored").rename(tmp_path / "state")
    outbox.maintain(0.0)
    assert stored(outbox) == [0, 1, 500]
    assert entries(outbox, "audit")[0].id == sent, "others come after what may have been sent"
    assert len(entries(outbox, "report")) == 1
    outbox.close()


def test_each_damaged_row_is_set_aside_and_counted_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, audits=7, samples=1)
    damages = (
        "payload = replace(CAST(payload AS TEXT), '0.5', '0.6')",
        "payload = X'00'",
        "start = X'FF00FE'",
        "revision = 'x'",
        "sequence = -1",
        "kind = 'other'",
    )
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        for place, damage in enumerate(damages):
            database.execute(f"UPDATE message SET {damage} WHERE id = ?", (place + 1,))  # noqa: S608
    outbox = open_outbox(tmp_path)
    assert stored(outbox) == [6]
    assert len(entries(outbox, "report")) == 1
    assert outbox.losses == Losses(damaged=len(damages))
    assert "6 damaged rows are deleted" in caplog.text
    assert outbox.problem is None
    outbox.close()
    assert open_outbox(tmp_path).losses == Losses(damaged=len(damages)), "counted once"


def test_a_row_that_is_damaged_while_the_agent_runs_is_set_aside_when_it_is_sent(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for label in range(3):
        outbox.add(make_audit(first=label))
    connection = outbox._storage._rows._connection
    connection.execute("UPDATE message SET payload = CAST(substr(payload, 2) AS TEXT) WHERE id = 2")
    connection.commit()
    assert [outbox.payload(entry.id) is None for entry in entries(outbox)] == [False, True, False]
    assert (stored(outbox), outbox.losses) == ([0, 2], Losses(damaged=1))


@pytest.mark.parametrize("place", ["header", "first page", "anywhere"])
def test_one_flipped_bit_loses_at_most_the_messages_of_one_page_and_is_counted(tmp_path: Path, place: str) -> None:
    expected = filled(tmp_path / "image", audits=12, samples=3)
    content = (tmp_path / "image" / FILE).read_bytes()
    size = {"header": 100, "first page": 4096, "anywhere": len(content)}[place]
    generator, lost = random.Random(place), []  # noqa: S311 - not cryptography
    for _ in range(20):
        bit = generator.randrange(8 * size)
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        (tmp_path / "state").mkdir(mode=0o700)
        (tmp_path / "state" / FILE).write_bytes(damaged)
        (tmp_path / "state" / FILE).chmod(0o600)
        outbox = open_outbox(tmp_path / "state")
        found = stored(outbox)
        assert not outbox.in_memory, f"bit {bit}"
        assert set(found) <= set(expected)
        missing = (len(expected) - len(found)) // 3 + (1 - len(entries(outbox, "report")))
        assert missing <= 4, f"bit {bit}"
        assert bool(outbox.losses.damaged) >= bool(missing), f"bit {bit}"
        lost.append(missing)
        outbox.add(make_audit(first=1000))
        assert reopened(tmp_path / "state", outbox) == [*found, 1000]
    assert sum(lost) <= len(lost), "nearly always one at most"


@pytest.mark.parametrize("place", ["header", "first frame", "anywhere"])
def test_one_flipped_bit_in_the_log_after_a_crash_loses_at_most_one_message_and_is_counted(
    tmp_path: Path, place: str
) -> None:
    image = tmp_path / "image"
    filled(image, audits=3, samples=3)
    live = open_outbox(image)
    for number in range(3, 15):
        live.add(make_audit(3, first=3 * number))
    acknowledge(live, entries(live, "audit")[0])
    content, log = (image / FILE).read_bytes(), (image / f"{FILE}-wal").read_bytes()
    expected = stored(live)
    live.close()
    size = {"header": 32, "first frame": 32 + 24 + 4096, "anywhere": len(log)}[place]
    generator, lost = random.Random(place), []  # noqa: S311 - not cryptography
    for turn in range(10):
        bit = generator.randrange(8 * size)
        damaged = bytearray(log)
        damaged[bit // 8] ^= (1 << (bit % 8)) if turn else 0
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        (tmp_path / "state").mkdir(mode=0o700)
        for name, data in ((FILE, content), (f"{FILE}-wal", damaged)):
            (tmp_path / "state" / name).write_bytes(data)
            (tmp_path / "state" / name).chmod(0o600)
        outbox = open_outbox(tmp_path / "state")
        assert not outbox.in_memory, f"bit {bit}"
        missing = set(expected) - set(stored(outbox))
        lost.append(len(missing) // 3)
        assert lost[-1] <= 4, f"bit {bit}"
        assert bool(outbox.losses.damaged) >= bool(missing), f"bit {bit}"
        assert turn or outbox.losses.damaged == 0, "an undamaged log is not damaged"
        outbox.add(make_audit(first=1000))
        assert 1000 in reopened(tmp_path / "state", outbox)
    assert sum(lost) <= len(lost), "nearly always one at most"


def test_a_destroyed_page_loses_only_the_messages_on_it(tmp_path: Path) -> None:
    filled(tmp_path, audits=60, samples=3)  # about 900 bytes each, so four on a page
    content = bytearray((tmp_path / FILE).read_bytes())
    content[4096 * 5 : 4096 * 6] = b"\xa5" * 4096
    (tmp_path / FILE).write_bytes(content)
    outbox = open_outbox(tmp_path)
    assert not outbox.in_memory
    assert len(entries(outbox, "audit")) >= 50
    assert outbox.losses.damaged >= 1
    assert (tmp_path / "outbox.broken").read_bytes() == content


@pytest.mark.parametrize("content", [b"this is no database" * 1000, b"", b"SQLite format 3\0" + bytes(84), bytes(4096)])
def test_a_file_without_messages_is_renamed_and_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    assert not outbox.in_memory
    assert len(entries(outbox)) == 1
    if content:
        assert (tmp_path / "outbox.broken").read_bytes() == content


@pytest.mark.parametrize("name", [FILE, f"{FILE}-wal"])
@pytest.mark.parametrize("kind", ["folder", "FIFO", "link"])
def test_something_else_than_a_file_is_not_opened_and_the_outbox_works_in_memory(
    tmp_path: Path, name: str, kind: str
) -> None:
    filled(tmp_path / "state", audits=1)
    path = tmp_path / "state" / name
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        (tmp_path / "other").write_text("another file")
        path.symlink_to(tmp_path / "other")
    outbox = open_outbox(tmp_path / "state")
    outbox.add(make_audit(first=1))
    assert outbox.in_memory
    assert outbox.problem
    assert stored(outbox) == [1]


def test_a_database_of_something_else_is_renamed_and_replaced(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("CREATE TABLE message (sequence INTEGER PRIMARY KEY, payload BLOB)")
        database.execute("INSERT INTO message VALUES (1, 'x')")
    outbox = open_outbox(tmp_path)
    outbox.add(make_audit())
    assert (outbox.in_memory, outbox.count) == (False, 1)
    assert (tmp_path / "outbox.broken").exists()


def test_an_older_file_with_the_log_of_a_newer_one_loses_no_message_that_is_in_both(tmp_path: Path) -> None:
    folder, image, log = tmp_path / "state", tmp_path / "image", tmp_path / "log"
    filled(folder, audits=3, samples=3)
    shutil.copyfile(folder / FILE, image)
    for label in range(100, 140):
        outbox = open_outbox(folder)
        outbox.add(make_audit(10, first=10 * label))
        outbox.close()
    outbox = open_outbox(folder)
    acknowledge(outbox, *entries(outbox, "audit")[10:30])
    outbox.add(make_audit(first=7))
    shutil.copyfile(folder / f"{FILE}-wal", log)
    before = set(stored(outbox))
    outbox.close()
    shutil.copyfile(image, folder / FILE)
    shutil.copyfile(log, folder / f"{FILE}-wal")
    outbox = open_outbox(folder)
    assert not outbox.in_memory
    assert set(range(9)) <= set(stored(outbox)) <= before | set(range(1000, 1400))
    outbox.add(make_audit(first=999))
    assert 999 in reopened(folder, outbox)


def test_a_crash_while_a_damaged_file_is_replaced_loses_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = filled(tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[0] ^= 1
    (tmp_path / FILE).write_bytes(content)
    for step in range(2):
        calls: list[Path] = []

        def crash(path: Path, target: Path, calls: list[Path] = calls, step: int = step) -> Path:
            calls.append(path)
            if len(calls) > step:
                raise KeyboardInterrupt
            return path.rename(target)

        monkeypatch.setattr(row_file.Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            open_outbox(tmp_path)
        monkeypatch.undo()
    outbox = open_outbox(tmp_path)
    assert stored(outbox) == expected


def test_the_file_of_an_older_state_may_have_large_or_repeated_numbers(tmp_path: Path) -> None:
    expected = filled(tmp_path, audits=4, samples=1)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("UPDATE message SET id = 9223372036854775807 WHERE id = 2")
        columns = "kind, start, sequence, revision, window, payload, checksum"
        database.execute(f"INSERT INTO message SELECT 77, {columns} FROM message WHERE id = 3")  # noqa: S608
    outbox = open_outbox(tmp_path)
    assert stored(outbox) == expected
    outbox.add(make_audit(first=100))
    assert reopened(tmp_path, outbox) == [*expected, 100]
