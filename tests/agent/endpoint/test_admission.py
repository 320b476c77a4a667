"""Bodies are counted by the bytes that have arrived, and the slowest one makes room."""

import pytest

from edgeexit.agent.endpoint.admission import Admission
from edgeexit.errors import OverloadedError


class Body:
    def __init__(self) -> None:
        self.abandoned = False

    def abandon(self) -> None:
        self.abandoned = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(max_requests=2, max_bytes=100, clock=clock)


def test_one_body_alone_is_admitted_whatever_its_size(admission: Admission) -> None:
    one = Body()
    admission.receive(one, 1000)
    assert admission.bytes == 1000
    admission.release(one)
    admission.release(one)
    assert (admission.bytes, admission.requests) == (0, 0)


def test_the_oldest_incomplete_body_makes_room_once_it_is_a_second_old(admission: Admission, clock: Clock) -> None:
    complete, old, young, new = Body(), Body(), Body(), Body()
    admission.receive(complete, 40)
    admission.start(complete)
    admission.receive(old, 30)
    clock.now = 0.9
    admission.receive(young, 30)
    with pytest.raises(OverloadedError, match="100 bytes, and 10 more would exceed the limit of 100 bytes"):
        admission.receive(new, 10)
    clock.now = 1.0
    admission.receive(new, 10)
    assert [body.abandoned for body in (complete, old, young, new)] == [False, True, False, False]
    assert admission.bytes == 80
    with pytest.raises(OverloadedError):
        admission.receive(new, 30)


def test_complete_requests_are_limited_in_number(admission: Admission) -> None:
    first, second, third = Body(), Body(), Body()
    admission.start(first)
    admission.receive(second, 10)
    admission.start(second)
    with pytest.raises(OverloadedError, match="requests in flight: 2"):
        admission.start(third)
    admission.release(first)
    admission.start(third)
    admission.close()
    with pytest.raises(OverloadedError, match="the agent is stopping"):
        admission.start(first)
