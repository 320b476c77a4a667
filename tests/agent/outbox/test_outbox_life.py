"""Random lives of an outbox: whatever happens to its disk, the calibrator stores every sample exactly once."""

import contextlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeexit.agent.outbox.outbox import FILE, Outbox
from tests.agent.messages import make_audit, make_report
from tests.agent.outbox.test_outbox_disk import full_disk
from tests.agent.outboxes import Calibrator, entries, open_outbox

_MAX_BYTES = 4 * 1024 * 1024


class Life:
    """One device: its outbox, and what its calibrator must have in the end."""

    def __init__(self, folder: Path, generator: random.Random) -> None:
        self._folder = folder / "state"
        self._image = folder / "image"
        self._random = generator
        self.calibrator = Calibrator()
        self.outbox: Outbox = open_outbox(self._folder, max_bytes=_MAX_BYTES)
        self.labels: list[int] = []
        self.reached: dict[str, int] = {}
        self._now = 0.0
        self._next = 0

    def add(self) -> None:
        samples = self._random.randrange(1, 12)
        self.outbox.add(make_audit(samples, first=self._next))
        self.labels += range(self._next, self._next + samples)
        self._next += samples

    def report(self) -> None:
        self._next += 1
        self.outbox.add(make_report(reached=self._next, uptime_s=self._now))
        self.reached[self.outbox.start] = self._next

    def split(self) -> None:
        found = entries(self.outbox, "audit")
        if found:
            self.outbox.split(self._random.choice(found).id)

    def send(self) -> None:
        """The calibrator stores everything; the acknowledgements arrive or not."""
        self.calibrator.take(self.outbox, answer=self._random.random() < 0.5)

    def maintain(self) -> None:
        self._now += self._random.choice((1.0, 10.0, 400.0))
        self.outbox.maintain(self._now)

    def fill_disk(self) -> None:
        with full_disk():
            for _ in range(self._random.randrange(1, 4)):
                self._random.choice((self.add, self.report, self.split, self.send, self.maintain))()

    def remove_folder(self) -> None:
        """The operator removes the folder; the agent notices it at the next report."""
        if not self.outbox.in_memory:
            shutil.rmtree(self._folder, ignore_errors=True)
            self.outbox.maintain(self._now)

    def take_image(self) -> None:
        """Copy the state while the agent is stopped."""
        self._restart(
            lambda: (shutil.rmtree(self._image, ignore_errors=True), shutil.copytree(self._folder, self._image))
        )

    def restore_image(self) -> None:
        """Restore an older state after everything has been sent; the disk was used until then."""

        def restore() -> None:
            shutil.rmtree(self._folder)
            shutil.copytree(self._image, self._folder)

        if self._image.exists():
            self.calibrator.take(self.outbox)
            self._restart(restore)

    def flip_bit(self) -> None:
        """Damage the file after everything in it has been stored; what is new must not suffer."""
        self.calibrator.take(self.outbox, answer=False)

        def flip() -> None:
            content = bytearray((self._folder / FILE).read_bytes())
            bit = self._random.randrange(8 * len(content))
            content[bit // 8] ^= 1 << (bit % 8)
            (self._folder / FILE).write_bytes(content)

        self._restart(flip)

    def restart(self) -> None:
        self._restart(lambda: None)

    def _restart(self, meanwhile: Callable[[], None]) -> None:
        self._now += 1000.0
        self.outbox.maintain(self._now)
        if self.outbox.in_memory:
            return  # what is only in memory does not survive; that is no fault of the outbox
        self.outbox.close()
        with contextlib.suppress(FileNotFoundError):
            meanwhile()
        self._now = 0.0
        self.outbox = open_outbox(self._folder, max_bytes=_MAX_BYTES)


@pytest.mark.parametrize("seed", range(12))
def test_every_sample_and_the_last_report_of_every_start_are_stored_once(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311 - not cryptography
    life = Life(tmp_path, generator)
    rare = (life.fill_disk, life.remove_folder, life.take_image, life.restore_image, life.flip_bit, life.restart)
    often = (life.add, life.add, life.report, life.split, life.send, life.maintain)
    for _ in range(60):
        generator.choice(rare if generator.random() < 0.3 else often)()
    life.calibrator.take(life.outbox)
    assert life.outbox.count == 0
    assert life.calibrator.labels == sorted(life.labels)
    newest = {start: report.exits[0].reached for (start, _), report in life.calibrator.reports.items()}
    assert newest == life.reached
    life.outbox.close()


def test_the_write_ahead_log_does_not_stay_as_large_as_it_was_once(tmp_path: Path) -> None:
    """All messages of an outage are written at once when the disk returns, and the next start reads the log."""
    outbox = open_outbox(tmp_path, max_bytes=64 * 1024 * 1024)
    outbox.add(make_audit())
    first = outbox._storage.read(1)
    assert first is not None
    rows = [first._replace(id=number, sequence=number, payload=bytes(40_000)) for number in range(2, 400)]
    outbox._storage.write(insert=rows)
    outbox._storage.next_id, outbox._sequence = 400, 400
    for _ in range(3):
        outbox.add(make_audit())
    assert (tmp_path / "outbox.db-wal").stat().st_size <= 4 * 1024 * 1024
    outbox.close()
