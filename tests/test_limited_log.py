"""LimitedLog: the first line at once, then one per interval with the number of the others."""

import logging
import sys
import threading

import pytest

from edgeexit.limited_log import LimitedLog

INTERVAL_S = 600.0


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="limited")

    def take():
        taken = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return taken

    return take


@pytest.fixture
def limited(clock):
    return LimitedLog(logging.getLogger("limited"), INTERVAL_S, clock=clock)


def test_the_first_occurrence_is_logged_at_once_and_others_in_the_interval_are_not(limited, clock, lines):
    limited.warning("full", "the disk is full: %s", "/state")
    assert lines() == [("WARNING", "the disk is full: /state")]
    for _ in range(312):
        clock.now += 1
        limited.warning("full", "the disk is full: %s", "/state")
    assert lines() == []


def test_the_first_occurrence_after_the_interval_states_the_number_of_the_others(limited, clock, lines):
    for _ in range(313):
        limited.warning("full", "the disk is full: %s", "/state")
    lines()
    clock.now += INTERVAL_S
    limited.warning("full", "the disk is full: %s", "/other")
    assert lines() == [("WARNING", "the disk is full: /other (312 more in the last 10 min)")]
    limited.warning("full", "the disk is full: %s", "/other")
    assert lines() == []


def test_flush_states_the_number_when_nothing_follows(limited, clock, lines):
    for _ in range(4):
        limited.error("full", "the disk is full: %s", "/state")
    lines()
    clock.now += INTERVAL_S - 1
    limited.flush()
    assert lines() == []
    clock.now += 1
    limited.flush()
    assert lines() == [("ERROR", "the disk is full: /state (3 more in the last 10 min)")]
    clock.now += INTERVAL_S
    limited.flush()
    assert lines() == []


def test_an_occurrence_after_a_flush_waits_for_the_end_of_the_next_interval(limited, clock, lines):
    for _ in range(2):
        limited.warning("full", "full")
    clock.now += INTERVAL_S
    limited.flush()
    lines()
    limited.warning("full", "full")
    assert lines() == []
    clock.now += INTERVAL_S
    limited.flush()
    assert lines() == [("WARNING", "full (1 more in the last 10 min)")]


def test_an_occurrence_of_another_key_writes_the_numbers_that_are_due(limited, clock, lines):
    for _ in range(3):
        limited.warning("a", "message a")
    clock.now += INTERVAL_S
    lines()
    limited.info("b", "message b")
    assert lines() == [("WARNING", "message a (2 more in the last 10 min)"), ("INFO", "message b")]


def test_a_rare_occurrence_is_logged_each_time_without_a_number(limited, clock, lines):
    for _ in range(3):
        limited.warning("rare", "rare")
        clock.now += INTERVAL_S
    assert lines() == [("WARNING", "rare")] * 3


def test_keys_are_independent(limited, lines):
    limited.warning("a", "message a")
    limited.warning("b", "message b")
    limited.warning("a", "message a")
    assert [text for _, text in lines()] == ["message a", "message b"]


def test_close_states_all_numbers_and_forgets_the_keys(limited, clock, lines):
    for _ in range(3):
        limited.warning("a", "message a")
    limited.warning("b", "message b")
    clock.now += 30
    lines()
    limited.close()
    assert lines() == [("WARNING", "message a (2 more in the last 30 s)")]
    limited.close()
    assert lines() == []
    limited.warning("a", "message a")
    assert lines() == [("WARNING", "message a")]


def test_a_thousand_hostile_keys_give_a_bounded_number_of_lines_and_keys(limited, clock, lines):
    for number in range(1000):
        device = f"device-{number}"
        limited.warning(device, "refused %s", device)
    taken = lines()
    assert len(taken) == 65
    assert taken[0] == ("WARNING", "refused device-0")
    assert len(limited._keys) <= 65
    clock.now += INTERVAL_S
    limited.flush()
    assert lines() == [("WARNING", "refused device-64 (935 more of other kinds in the last 10 min)")]


def test_keys_have_lines_of_their_own_again_after_a_flood_of_keys(limited, clock, lines):
    for number in range(1000):
        limited.warning(number, "flood")
    clock.now += INTERVAL_S
    limited.flush()
    lines()
    limited.warning("new", "a new problem")
    assert lines() == [("WARNING", "a new problem")]


def test_a_known_key_keeps_its_own_line_during_a_flood_of_keys(limited, clock, lines):
    limited.warning("full", "the disk is full")
    for number in range(1000):
        limited.warning(number, "flood")
        limited.warning("full", "the disk is full")
    lines()
    clock.now += INTERVAL_S
    limited.warning("full", "the disk is full")
    assert ("WARNING", "the disk is full (1,000 more in the last 10 min)") in lines()


@pytest.mark.parametrize(
    ("elapsed_s", "text"),
    [(0.2, "1 s"), (59, "59 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (90000, "25 h")],
)
def test_the_duration_has_a_readable_unit(limited, clock, lines, elapsed_s, text):
    limited.warning("a", "message")
    limited.warning("a", "message")
    clock.now += elapsed_s
    limited.close()
    assert lines()[-1] == ("WARNING", f"message (1 more in the last {text})")


def test_text_from_outside_becomes_one_line_and_is_cut(limited, lines):
    limited.warning("a", "device '%s' sent %d bytes: %s", "x\n2026 ERROR fake\x1b[31m", 7, ValueError("y" * 100_000))
    ((_, text),) = lines()
    assert text.startswith("device 'x 2026 ERROR fake [31m' sent 7 bytes: yyyy")
    assert "\n" not in text
    assert len(text) < 400


def test_a_percent_sign_in_an_argument_is_kept(limited, clock, lines):
    for _ in range(2):
        limited.warning("a", "at %s", "100 %s")
    limited.close()
    assert [text for _, text in lines()] == ["at 100 %s", "at 100 %s (1 more in the last 1 s)"]


def test_an_error_has_its_traceback_once(limited, clock, caplog):
    error = ValueError("broken")
    for _ in range(2):
        limited.error("a", "a request failed", exc_info=error)
    limited.close()
    assert [record.exc_info and record.exc_info[1] for record in caplog.records] == [error, None]


def test_the_exception_is_not_kept(limited):
    error = ValueError("broken")
    before = sys.getrefcount(error)
    limited._logger.disabled = True
    try:
        for _ in range(10):
            limited.error("a", "failed: %s", error, exc_info=error)
    finally:
        limited._logger.disabled = False
    assert sys.getrefcount(error) == before


def test_no_occurrence_is_lost_between_threads(limited, clock, lines):
    def repeat():
        for _ in range(2000):
            limited.warning("a", "message")

    threads = [threading.Thread(target=repeat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines() == [("WARNING", "message")]
    clock.now += INTERVAL_S
    limited.flush()
    assert lines() == [("WARNING", "message (7,999 more in the last 10 min)")]


def test_a_handler_that_logs_to_the_same_log_does_not_block_it(limited, lines):
    class Echo(logging.Handler):
        def emit(self, record):
            limited.warning("echo", "a handler logs")

    handler = Echo()
    logging.getLogger("limited").addHandler(handler)
    try:
        limited.warning("a", "message")
    finally:
        logging.getLogger("limited").removeHandler(handler)
    assert [text for _, text in lines()] == ["a handler logs", "message"]
