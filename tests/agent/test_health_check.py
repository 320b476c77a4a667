"""The health check detects that inference hangs, and accepts an agent that is only busy."""

from concurrent.futures import Future
from typing import Any

import pytest

from edgeexit.agent.health_check import HealthCheck
from edgeexit.errors import OverloadedError


class FakeInference:
    """Probes that succeed, hang or raise, as the test sets it."""

    def __init__(self) -> None:
        self.completed_batches = 0
        self.probes: list[Future[Any]] = []
        self.error: Exception | None = None
        self.hangs = False

    def probe(self) -> Future[Any]:
        if self.error is not None:
            raise self.error
        future: Future[Any] = Future()
        self.probes.append(future)
        if not self.hangs:
            future.set_result(None)
        return future


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
def health_check(inference: FakeInference) -> HealthCheck:
    return HealthCheck(
        inference.probe,
        completed_batches=lambda: inference.completed_batches,
        on_check=lambda _: None,
        interval_s=0.02,
    )


def test_a_completed_probe_passes_the_check(health_check: HealthCheck) -> None:
    assert health_check.check()


def test_a_hanging_probe_fails_the_check_and_no_second_probe_is_started(
    health_check: HealthCheck, inference: FakeInference
) -> None:
    inference.hangs = True
    assert not health_check.check()
    assert not health_check.check()
    assert len(inference.probes) == 1
    inference.probes[0].set_result(None)
    inference.hangs = False
    assert health_check.check()
    assert health_check.check()


def test_completed_requests_of_clients_pass_the_check(health_check: HealthCheck, inference: FakeInference) -> None:
    inference.hangs = True
    assert not health_check.check()
    inference.completed_batches += 1
    assert health_check.check()
    assert not health_check.check()


def test_an_overloaded_agent_passes_the_check_while_requests_complete(
    health_check: HealthCheck, inference: FakeInference
) -> None:
    inference.error = OverloadedError("too many samples are pending")
    assert not health_check.check()
    inference.completed_batches += 1
    assert health_check.check()


def test_a_probe_that_raises_fails_the_check_and_is_logged(
    health_check: HealthCheck, inference: FakeInference, caplog: pytest.LogCaptureFixture
) -> None:
    inference.error = RuntimeError("the driver is gone")
    assert not health_check.check()
    assert "the driver is gone" in caplog.text
