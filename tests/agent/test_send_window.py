"""Which messages are sent next, at a cost that does not grow with the size of the outbox."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeexit.agent.outbox import Outbox
from edgeexit.agent.send_window import WINDOW, SendWindow
from edgeexit.wire import Ack, encode
from tests.agent.messages import make_audit, make_report

RESEND_S = 30.0


def open_full(folder: Path, audits: int) -> Outbox:
    """Return an outbox with this number of audits."""
    outbox = Outbox(folder, max_bytes=64 * 1024 * 1024)
    rows = [(n, "audit", 1, 0, encode(make_audit())) for n in range(1, audits + 1)]
    with outbox._connection as database:
        database.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", rows)
    outbox.close()
    again = Outbox(folder, max_bytes=64 * 1024 * 1024)
    assert again.count == audits
    return again


def send(window: SendWindow, now: float) -> list[int]:
    """Send all due messages; return their sequence numbers."""
    due = window.due(now)
    for sequence in due:
        window.sent(sequence, now)
    return due


def acknowledge(outbox: Outbox, *sequences: int) -> int:
    return outbox.acknowledge(Ack(start=outbox.start, sequences=sequences))


def test_a_full_window_is_sent_and_one_more_message_per_acknowledgement(tmp_path: Path) -> None:
    outbox = open_full(tmp_path, WINDOW + 10)
    window = SendWindow(outbox, "audit", resend_s=RESEND_S)
    assert window.resend_due() == float("inf")
    assert send(window, now=0) == list(range(1, WINDOW + 1))
    assert send(window, now=1) == []
    assert window.resend_due() == RESEND_S
    acknowledge(outbox, 3, 5)
    assert send(window, now=2) == [WINDOW + 1, WINDOW + 2]


def test_unacknowledged_messages_are_sent_again_after_all_others(tmp_path: Path) -> None:
    outbox = open_full(tmp_path, 2 * WINDOW + 5)
    window = SendWindow(outbox, "audit", resend_s=RESEND_S)
    rounds = [send(window, now=turn * RESEND_S) for turn in range(3)]
    assert rounds[0] == list(range(1, WINDOW + 1))
    assert rounds[1] == list(range(WINDOW + 1, 2 * WINDOW + 1))
    assert rounds[2] == [*range(2 * WINDOW + 1, 2 * WINDOW + 6), *range(1, WINDOW - 4)]
    assert window.resend_due() > 2 * RESEND_S, "nothing is due earlier"


def test_messages_are_repeated_after_resend_s_and_at_once_after_a_reconnect(tmp_path: Path) -> None:
    outbox = open_full(tmp_path, 3)
    window = SendWindow(outbox, "audit", resend_s=RESEND_S)
    assert send(window, now=0) == [1, 2, 3]
    assert send(window, now=RESEND_S - 1) == []
    assert send(window, now=RESEND_S) == [1, 2, 3]
    assert send(window, now=RESEND_S + 1) == []
    window.connection_lost()
    assert send(window, now=RESEND_S + 2) == [1, 2, 3]


def test_a_message_that_could_not_be_sent_stays_due(tmp_path: Path) -> None:
    window = SendWindow(open_full(tmp_path, 3), "audit", resend_s=RESEND_S)
    assert window.due(0) == [1, 2, 3]
    window.sent(1, 0)
    assert window.due(0) == [2, 3]


def test_replaced_reports_do_not_count_towards_the_window(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, max_bytes=1024 * 1024)
    window = SendWindow(outbox, "report", resend_s=RESEND_S)
    for now in range(2 * WINDOW):
        outbox.add(make_report(reached=now))
        assert len(send(window, now=now / 100)) == 1


@pytest.mark.parametrize(
    "work",
    [
        lambda outbox, window: acknowledge(outbox, *send(window, now=0)[:5]) and send(window, now=1),
        lambda outbox, _: outbox.add(make_audit()),
        lambda outbox, _: outbox.add(make_report()),
        lambda outbox, _: outbox.count,
    ],
    ids=["send", "add an audit", "add a report", "count"],
)
def test_the_cost_does_not_grow_with_the_number_of_messages(
    tmp_path: Path, work: Callable[[Outbox, SendWindow], object]
) -> None:
    """The cost is the number of steps of SQLite's virtual machine: at least one per row that it reads."""
    steps = []
    for audits in (100, 10_000):
        outbox = open_full(tmp_path / str(audits), audits)
        count = [0]

        def step(count: list[int] = count) -> int:
            count[0] += 1
            return 0

        outbox._connection.set_progress_handler(step, 1)
        work(outbox, SendWindow(outbox, "audit", resend_s=RESEND_S))
        outbox._connection.set_progress_handler(None, 1)
        steps += count
        outbox.close()
    assert steps[1] <= 1.5 * steps[0], f"{steps} steps"
