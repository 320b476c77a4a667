"""Which messages are sent next, when they are sent again, and at what cost."""

import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeexit.agent.fleet_link.identity import DeviceIdentity
from edgeexit.agent.fleet_link.send_window import WINDOW, SendWindow
from edgeexit.agent.fleet_link.sender import OutboxSender
from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.agent.outbox.row_file import RowFile
from edgeexit.agent.outbox.rows import OutboxEntry
from edgeexit.wire import DeviceAddress, Publication
from tests.agent.messages import make_audit, make_report
from tests.agent.outboxes import acknowledge, entries, open_outbox

RESEND_S = 30.0
HOUR = 3600.0


def add_audits(outbox: Outbox, audits: int, samples: int = 1) -> None:
    """Add audits in one transaction."""
    outbox.add(make_audit(samples))
    first = outbox._storage._rows.read(1)
    assert first is not None
    outbox._storage.write(insert=[first._replace(id=number, sequence=number) for number in range(2, audits + 1)])
    outbox._storage.next_id, outbox._sequence = audits + 1, audits


class Sender:
    """Sends what a window wants to send, and answers for the broker."""

    def __init__(self, folder: Path, audits: int, *, samples: int = 1) -> None:
        self.outbox = open_outbox(folder, max_bytes=64 * 1024 * 1024)
        add_audits(self.outbox, audits, samples)
        self.window = SendWindow(self.outbox, "audit", resend_s=RESEND_S, jitter=lambda: 1.0)
        self.publications: dict[int, Publication] = {}

    def send(self, now: float) -> list[int]:
        """Send all due messages; return their sequence numbers."""
        self.window.update(now)
        due = self.window.due(now)
        for entry in due:
            self.publications[entry.id] = Publication("topic", entry.size)
            self.window.sent(entry, self.publications[entry.id], now)
        return [entry.sequence for entry in due]

    def deliver(self, now: float) -> list[int]:
        """Send all due messages; the broker takes all that are unfinished."""
        sent = self.send(now)
        for publication in self.publications.values():
            if not publication.done:
                publication.acknowledge()
        self.window.update(now)
        return sent

    def end_connection(self) -> None:
        for publication in self.publications.values():
            publication.end()

    def store(self, *sequences: int, now: float) -> None:
        """Acknowledge messages as the calibrator."""
        stored = [entry for entry in entries(self.outbox) if entry.sequence in sequences]
        acknowledge(self.outbox, *stored)
        self.window.acknowledged([entry.id for entry in stored], now)


def test_a_full_window_is_sent_and_one_more_message_per_acknowledgement(tmp_path: Path) -> None:
    sender = Sender(tmp_path, WINDOW + 10)
    assert sender.window.next_at(0) == float("inf")
    assert sender.deliver(0) == list(range(1, WINDOW + 1))
    assert sender.deliver(1) == []
    assert sender.window.next_at(1) == RESEND_S
    sender.store(3, 5, now=2)
    assert sender.deliver(2) == [WINDOW + 1, WINDOW + 2]


def test_an_unfinished_copy_is_never_doubled_however_long_it_takes(tmp_path: Path) -> None:
    sender = Sender(tmp_path, 3)
    assert sender.send(0) == [1, 2, 3]
    for now in (RESEND_S, HOUR, 24 * HOUR):
        assert sender.send(now) == []


def test_unfinished_messages_are_sent_again_first_and_in_order_when_their_connection_has_ended(tmp_path: Path) -> None:
    sender = Sender(tmp_path, WINDOW)
    sender.deliver(0)
    for _ in range(3):
        sender.outbox.add(make_audit())
    sender.store(*range(1, WINDOW + 1), now=1)
    assert sender.send(1) == [WINDOW + 1, WINDOW + 2, WINDOW + 3]
    sender.outbox.add(make_audit())
    sender.end_connection()
    assert sender.send(2) == [WINDOW + 1, WINDOW + 2, WINDOW + 3, WINDOW + 4]


def test_after_its_puback_a_message_is_repeated_ever_more_rarely_and_not_after_a_reconnect(tmp_path: Path) -> None:
    sender = Sender(tmp_path, 1)
    times, now = [], 0.0
    while now < 5 * HOUR:
        if sender.deliver(now):
            times.append(now)
        sender.end_connection()
        now += 15
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_a_puback_that_is_long_overdue_makes_a_message_due_once_it_has_left_the_queue(tmp_path: Path) -> None:
    sender = Sender(tmp_path, 1)
    assert sender.send(0) == [1]
    assert sender.send(HOUR) == []
    sender.publications[1].written = True
    assert sender.send(HOUR + 1) == [1]
    sender.publications[1].written = True
    assert sender.send(HOUR + 130) == [], "the next one waits longer"
    assert sender.window.next_at(HOUR + 130) < 2 * HOUR


def test_while_the_calibrator_is_silent_for_days_little_is_sent_and_then_everything(tmp_path: Path) -> None:
    sender = Sender(tmp_path, 1500)
    copies, now = 0, 0.0
    while now < 48 * HOUR:
        copies += len(sender.deliver(now))
        now += 300.0
    assert copies < 60 * WINDOW, "about one window per hour"
    sent: set[int] = set()
    while sender.outbox.count:
        new = sender.deliver(now)
        sent.update(new)
        sender.store(*new, now=now)
        if not new:
            oldest = [entry.sequence for entry in sender.outbox.pending("audit", limit=1)]
            sender.store(*oldest, now=now)  # the broker delivers what it has kept
        now += 1.0
    assert now < 48 * HOUR + 1000, "the pauses of the silent time do not go on"


def test_messages_that_are_never_acknowledged_do_not_block_the_others(tmp_path: Path) -> None:
    sender = Sender(tmp_path, WINDOW + 200)
    poison = set(range(1, WINDOW + 1))
    copies = dict.fromkeys(poison, 0)
    now = 0.0
    while sender.outbox.count > WINDOW:
        new = sender.deliver(now)
        for sequence in poison & set(new):
            copies[sequence] += 1
        sender.store(*(set(new) - poison), now=now)
        now += 10.0
    assert now < 600
    assert max(copies.values()) <= 5, "they are repeated ever more rarely"


def test_messages_that_are_refused_for_now_wait_long_and_return_when_one_of_them_is_taken(tmp_path: Path) -> None:
    sender = Sender(tmp_path, WINDOW + 5)
    sender.deliver(0)
    sender.window.postpone([entry.id for entry in entries(sender.outbox)[:WINDOW]], 1)
    assert sender.deliver(300) == [], "the others would be refused, too"
    assert sender.window.next_at(300) == 1 + 900
    again = sender.deliver(901)
    assert len(again) == WINDOW
    assert set(again) >= set(range(WINDOW + 1, WINDOW + 6))
    sender.window.postpone([entry.id for entry in entries(sender.outbox)], 902)
    assert sender.deliver(2000) == []
    sender.store(again[-1], now=2001)
    assert len(sender.deliver(2002)) >= WINDOW - 6, "its key is approved now"


def test_a_message_that_the_broker_refuses_waits_long(tmp_path: Path) -> None:
    sender = Sender(tmp_path, 2)
    sender.send(0)
    sender.publications[1].acknowledge(refused="Not authorized")
    sender.publications[2].acknowledge()
    sender.window.update(0)
    assert sender.deliver(31) == [2]
    assert sender.deliver(899) != [1]
    assert 1 in sender.deliver(901)


def test_messages_that_are_gone_leave_the_window(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    window = SendWindow(outbox, "report", resend_s=RESEND_S)
    for now in range(3 * WINDOW):
        outbox.add(make_report(reached=now))
        window.update(now / 100)
        (entry,) = window.due(now / 100)
        window.sent(entry, Publication("topic", 1), now / 100)


def test_a_large_message_that_is_unfinished_when_connections_end_becomes_a_suspect(tmp_path: Path) -> None:
    sender = Sender(tmp_path, 2, samples=60)
    sender.outbox.add(make_audit())
    small = entries(sender.outbox)[-1]
    for now in range(2):
        assert sender.send(now) == [1, 2, 3]
        sender.publications[small.id].end()
        sender.end_connection()
    assert sender.send(2) == [3]
    large = sender.window.suspects()
    assert [entry.sequence for entry in large] == [1, 2]
    assert not sender.window.is_too_large(large[0])
    publication = Publication("topic", 1)
    sender.window.sent(large[0], publication, 3)
    publication.end()
    sender.window.update(3)
    assert sender.window.is_too_large(large[0])
    assert sender.window.is_too_large(large[1]), "it has the same size"
    assert not sender.window.is_too_large(small)

    publication = Publication("topic", 1)
    sender.window.sent(large[1], publication, 100)
    publication.acknowledge()
    sender.window.update(101)
    assert not sender.window.is_too_large(large[0]), "the broker takes this size after all"


def add_rows(folder: Path, audits: int) -> Outbox:
    outbox = open_outbox(folder, max_bytes=64 * 1024 * 1024)
    add_audits(outbox, audits)
    return outbox


@pytest.mark.parametrize(
    "work",
    [
        lambda *both: send_and_acknowledge(*both),  # noqa: PLW0108 - it is defined below
        lambda outbox, _: outbox.add(make_audit()),
        lambda outbox, _: outbox.add(make_report()),
        lambda outbox, _: outbox.count,
        lambda _, window: window.next_at(0),
    ],
    ids=["send", "add an audit", "add a report", "count", "next"],
)
def test_the_cost_does_not_grow_with_the_number_of_messages(
    tmp_path: Path, work: Callable[[Outbox, SendWindow], object]
) -> None:
    """The cost is the number of steps of SQLite's virtual machine, at least one per row, and of Python's calls."""
    steps = []
    for audits in (100, 10_000):
        outbox = add_rows(tmp_path / str(audits), audits)
        window = SendWindow(outbox, "audit", resend_s=RESEND_S)
        work(outbox, window)
        count = [0]

        def step(*_: object, count: list[int] = count) -> int:
            count[0] += 1
            return 0

        rows = outbox._storage._rows
        assert isinstance(rows, RowFile)
        rows._connection.set_progress_handler(step, 1)
        work(outbox, window)
        rows._connection.set_progress_handler(None, 1)
        steps += count
        outbox.close()
    assert steps[1] <= 1.5 * steps[0] + 20, f"{steps} steps"


def send_and_acknowledge(outbox: Outbox, window: SendWindow) -> None:
    def send() -> list[OutboxEntry]:
        window.update(0)
        due = window.due(0)
        for entry in due:
            assert outbox.payload(entry.id)
            publication = Publication("topic", 1)
            publication.acknowledge()
            window.sent(entry, publication, 0)
        return due

    acknowledge(outbox, *send()[:5])
    send()


def test_ten_thousand_messages_need_little_memory(tmp_path: Path) -> None:
    outbox = add_rows(tmp_path, 10_000)
    outbox.close()
    tracemalloc.start()
    again = open_outbox(tmp_path, max_bytes=64 * 1024 * 1024)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert again.count == 10_000
    assert used < 6_000_000


class ForgetfulBroker:
    """A connection that lasts, at which some messages never get a PUBACK."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []

    @property
    def unacked_bytes(self) -> int:
        return sum(one.size for one in self.publications if not one.done)

    def publish(self, topic: str, payload: bytes) -> Publication:
        self.publications.append(Publication(topic, len(payload)))
        self.publications[-1].written = True
        return self.publications[-1]


def test_messages_whose_puback_never_comes_do_not_stop_the_others_for_ever(tmp_path: Path) -> None:
    outbox, broker = open_outbox(tmp_path, max_bytes=64 * 1024 * 1024), ForgetfulBroker()
    add_audits(outbox, 10, 100)
    address = DeviceAddress(fleet="f", shard="s", device="d")
    sender = OutboxSender(outbox, broker, DeviceIdentity(tmp_path), address=address, resend_s=RESEND_S)
    sender.send(0.0)
    assert broker.unacked_bytes > 32 * 1024, "the connection is full"
    sent = len(broker.publications)
    assert sent < 10
    for now in (HOUR, HOUR + 1):
        sender.update(now)
        sender.send(now)
    assert len(broker.publications) > sent
