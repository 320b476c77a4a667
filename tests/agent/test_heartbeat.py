"""What is hung is seen to be hung, and what is only busy is not."""

from concurrent.futures import Future
from typing import Any

import pytest

from edgeexit.agent.heartbeat import Heartbeat
from edgeexit.errors import OverloadedError


class Inference:
    """Answers as it is told."""

    def __init__(self) -> None:
        self.answered = 0
        self.asked: list[Future[Any]] = []
        self.error: Exception | None = None
        self.predictions = True

    def probe(self) -> Future[Any]:
        if self.error is not None:
            raise self.error
        future: Future[Any] = Future()
        self.asked.append(future)
        if self.predictions:
            future.set_result(None)
        return future

    def progress(self) -> int:
        return self.answered


@pytest.fixture
def inference() -> Inference:
    return Inference()


@pytest.fixture
def heartbeat(inference: Inference) -> Heartbeat:
    return Heartbeat(inference.probe, progress=inference.progress, tell=lambda _: None, interval_s=0.02)


def test_an_answer_is_a_sign_of_life(heartbeat: Heartbeat) -> None:
    assert heartbeat.beat()


def test_a_hang_is_seen_and_probes_do_not_pile_up(heartbeat: Heartbeat, inference: Inference) -> None:
    inference.predictions = False
    assert not heartbeat.beat()
    assert not heartbeat.beat()
    assert len(inference.asked) == 1
    inference.asked[0].set_result(None)
    inference.predictions = True
    assert heartbeat.beat()
    assert heartbeat.beat()


def test_slow_answers_to_others_are_a_sign_of_life(heartbeat: Heartbeat, inference: Inference) -> None:
    inference.predictions = False
    assert not heartbeat.beat()
    inference.answered += 1
    assert heartbeat.beat()
    assert not heartbeat.beat()


def test_overload_is_a_sign_of_life_while_answers_go_out(heartbeat: Heartbeat, inference: Inference) -> None:
    inference.error = OverloadedError("too much waits")
    assert not heartbeat.beat()
    inference.answered += 1
    assert heartbeat.beat()


def test_an_error_is_none(heartbeat: Heartbeat, inference: Inference, caplog: pytest.LogCaptureFixture) -> None:
    inference.error = RuntimeError("the driver is gone")
    assert not heartbeat.beat()
    assert "the driver is gone" in caplog.text
