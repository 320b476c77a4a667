"""How often the status of a running agent is logged."""

from edgeexit.agent.status_lines import StatusLines

STEP_S = 10.0
DAY_S = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines_in(lines: StatusLines, clock: Clock, duration_s: float, facts=lambda _: "same") -> int:
    count = 0
    for step in range(int(duration_s / STEP_S)):
        count += lines.is_due(facts(step))
        clock.now += STEP_S
    return count


def test_a_quiet_day_has_one_line_per_hour() -> None:
    clock = Clock()
    assert lines_in(StatusLines(clock=clock), clock, DAY_S) == 24


def test_the_first_status_and_a_change_after_ten_minutes_are_logged_at_once() -> None:
    clock = Clock()
    lines = StatusLines(clock=clock)
    assert lines.is_due("online")
    clock.now += 600
    assert not lines.is_due("online")
    assert lines.is_due("offline")
    assert not lines.is_due("online")


def test_a_change_within_ten_minutes_is_logged_when_they_are_over() -> None:
    clock = Clock()
    lines = StatusLines(clock=clock)
    lines.is_due("online")
    clock.now += 10
    assert not lines.is_due("offline")
    clock.now += 590
    assert lines.is_due("offline")


def test_a_connection_that_comes_and_goes_gives_at_most_six_lines_per_hour() -> None:
    clock = Clock()
    assert lines_in(StatusLines(clock=clock), clock, DAY_S, facts=lambda step: step) == 144


def test_a_person_at_a_terminal_sees_every_status() -> None:
    clock = Clock()
    assert lines_in(StatusLines(on_terminal=True, clock=clock), clock, 600) == 60
