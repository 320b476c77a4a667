"""Labels that arrive after the inference: they are attached to the audited samples, which wait for a bounded time."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edgeexit.agent import Agent, AgentConfig
from edgeexit.agent.awaiting_labels import _MAX_SAMPLES, AwaitingLabels
from edgeexit.bundle import Bundle
from edgeexit.errors import DataError
from edgeexit.wire import Audit, AuditedSample
from tests.agent.fleet import Fleet, wait_for
from tests.bundles import INPUT, make_samples

Change = Callable[..., AgentConfig]
SAMPLE = AuditedSample(exit=0, top1=(1, 2), p1=(0.5, 0.9), p2=(0.3, 0.1), entropy=(1.0, 0.3))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def awaiting(clock: Clock) -> AwaitingLabels:
    return AwaitingLabels(30.0, clock=clock)


def hold(awaiting: AwaitingLabels, id_: str, *, rows: tuple[int, ...] = (0,), batch: int = 1) -> list[Any]:
    ticket = awaiting.expect(id_, batch=batch, rows=rows, labels=[None] * len(rows))
    return awaiting.hold(ticket, 7, [(index, SAMPLE) for index in range(len(rows))])


def labels(released: list[Any]) -> list[int | None]:
    assert {revision for revision, _ in released} <= {7}
    return [sample.label for _, sample in released]


def test_a_sample_waits_for_its_label_until_the_window_ends(awaiting: AwaitingLabels, clock: Clock) -> None:
    hold(awaiting, "a")
    clock.now += 29
    hold(awaiting, "b")
    assert awaiting.release() == []
    clock.now += 1
    assert labels(awaiting.release()) == [None]
    assert not awaiting.attach("a", [1]), "the sample has been released"
    assert awaiting.attach("b", [1])
    assert labels(awaiting.release()) == [1], "the sample has all its labels"
    assert awaiting.release() == []


def test_labels_are_attached_to_the_drawn_rows(awaiting: AwaitingLabels) -> None:
    hold(awaiting, "a", rows=(1, 3), batch=4)
    assert awaiting.attach("a", [9, 5, 9, -1])
    assert awaiting.release() == []
    assert awaiting.attach("a", [9, -1, 9, 6])
    assert labels(awaiting.release()) == [5, 6]


def test_a_label_may_arrive_before_the_audit_has_run(awaiting: AwaitingLabels) -> None:
    ticket = awaiting.expect("a", batch=1, rows=[0], labels=[None])
    assert awaiting.attach("a", [3])
    awaiting.hold(ticket, 7, [(0, SAMPLE)])
    assert labels(awaiting.release()) == [3]


def test_a_wrong_number_of_labels_is_refused(awaiting: AwaitingLabels) -> None:
    hold(awaiting, "a", rows=(1,), batch=2)
    with pytest.raises(DataError, match="the inference with id 'a' has 2 samples, but 1 labels were passed"):
        awaiting.attach("a", [1])


def test_the_newest_inference_of_an_id_gets_the_label_and_both_are_released(
    awaiting: AwaitingLabels, clock: Clock
) -> None:
    hold(awaiting, "a")
    clock.now += 20
    hold(awaiting, "a")
    clock.now += 15
    assert labels(awaiting.release()) == [None]
    assert awaiting.attach("a", [2])
    assert labels(awaiting.release()) == [2]


def test_held_samples_are_bounded_and_the_oldest_is_released_first(awaiting: AwaitingLabels) -> None:
    released = [hold(awaiting, str(n)) for n in range(_MAX_SAMPLES + 10)]
    assert [len(one) for one in released] == [0] * _MAX_SAMPLES + [1] * 10
    assert not awaiting.attach("9", [1])
    assert awaiting.attach("10", [1])
    assert len(awaiting._tickets) == _MAX_SAMPLES
    assert len(awaiting.release(everything=True)) == _MAX_SAMPLES
    assert not awaiting._tickets


def test_a_forgotten_ticket_accepts_no_labels(awaiting: AwaitingLabels) -> None:
    awaiting.forget(awaiting.expect("a", batch=1, rows=[0], labels=[None]))
    assert not awaiting.attach("a", [1])


@pytest.fixture
def waiting(changed: Change) -> AgentConfig:
    """A device that audits every sample, and waits up to an hour for the label."""
    return changed(audit_fraction=1.0, feedback_window_s=3600.0)


def received_samples(fleet: Fleet, config: AgentConfig) -> list[AuditedSample]:
    once = {audit.sequence: audit for audit in fleet.messages(config, Audit)}
    return [sample for audit in once.values() for sample in audit.samples]


@pytest.fixture(params=["infer", "infer_async"])
def infer(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """`Agent.infer`, and `Agent.infer_async` with a wait for its result."""

    def run(agent: Agent, *arguments: Any, **options: Any) -> Any:
        found = getattr(agent, request.param)(*arguments, **options)
        return found if request.param == "infer" else found.result(10)

    return run


def test_a_late_label_is_sent_with_its_sample(
    fleet: Fleet, bundle: Bundle, waiting: AgentConfig, infer: Callable[..., Any]
) -> None:
    with Agent(bundle, waiting) as agent:
        infer(agent, make_samples(1), id="door-1")
        infer(agent, make_samples(3), id="door-2", labels=[-1, 0, -1])
        infer(agent, make_samples(2))
        wait_for(lambda: len(received_samples(fleet, waiting)) == 2, "the samples without an id")
        time.sleep(0.5)
        assert len(received_samples(fleet, waiting)) == 2, "samples with an id wait"
        assert agent.feedback("door-1", 3)
        assert agent.feedback("door-2", [1, -1, 2])
        assert not agent.feedback("door-3", 1)
        wait_for(lambda: len(received_samples(fleet, waiting)) == 6, "the labelled samples")
        assert not agent.feedback("door-1", 3), "too late"
    assert sorted(str(sample.label) for sample in received_samples(fleet, waiting)) == [
        "0",
        "1",
        "2",
        "3",
        "None",
        "None",
    ]


def test_a_clean_stop_sends_the_waiting_samples(fleet: Fleet, bundle: Bundle, waiting: AgentConfig) -> None:
    with Agent(bundle, waiting) as agent:
        wait_for(lambda: agent.connected, "the broker")
        futures = [agent.infer_async(make_samples(2), id=str(n)) for n in range(20)]
    assert all(future.done() for future in futures)
    wait_for(lambda: len(received_samples(fleet, waiting)) == 40, "all samples")


def test_without_a_window_samples_are_sent_with_the_next_report(fleet: Fleet, bundle: Bundle, changed: Change) -> None:
    config = changed(audit_fraction=1.0)
    with Agent(bundle, config) as agent:
        agent.infer(make_samples(1), id="a")
        wait_for(lambda: received_samples(fleet, config), "the sample")
        assert not agent.feedback("a", 1)


@pytest.mark.parametrize("label", [4, [0, 4], 2**70])
def test_a_label_out_of_range_is_refused(bundle: Bundle, waiting: AgentConfig, label: Any) -> None:
    with Agent(bundle, waiting) as agent:
        agent.infer(make_samples(2), id="a")
        with pytest.raises(DataError, match="the model has 4 classes"):
            agent.feedback("a", label)


@pytest.mark.parametrize("label", ["a", 1.5, [0, 1.5], [[0], [1]]])
def test_a_label_that_is_not_an_integer_is_refused(bundle: Bundle, waiting: AgentConfig, label: Any) -> None:
    with Agent(bundle, waiting) as agent:
        agent.infer(make_samples(2), id="a")
        with pytest.raises(DataError, match="labels of id 'a' are not integers"):
            agent.feedback("a", label)


def test_the_caller_may_overwrite_its_array_after_infer_async(fleet: Fleet, bundle: Bundle, changed: Change) -> None:
    config = changed(audit_fraction=1.0)
    rows = make_samples(1)[INPUT]
    with Agent(bundle, config) as agent:
        expected = agent._runner.infer_every_exit({INPUT: rows}).readouts[0]
        future = agent.infer_async({INPUT: rows})
        rows[:] = 0
        np.testing.assert_allclose(future.result(10).readouts[0], expected[2], rtol=1e-6)
        wait_for(lambda: received_samples(fleet, config), "the audit")
    np.testing.assert_allclose(received_samples(fleet, config)[0].p1, expected[:, 1], rtol=1e-6)


def test_which_rows_are_drawn_depends_on_neither_input_nor_label_nor_id(
    bundle: Bundle, changed: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same random numbers draw the same rows for all inputs, labels and ids."""
    drawn: list[list[int]] = []
    with Agent(bundle, changed(audit_fraction=0.3)) as agent:
        submit = agent._auditor.submit
        monkeypatch.setattr(agent._auditor, "submit", lambda d, *a, **k: (drawn.append(d.rows), submit(d, *a, **k)))
        for options in ({}, {"labels": [3] * 50}, {"id": "x"}, {"id": "y", "labels": [0] * 50}):
            numbers = iter(np.random.default_rng(5).random(50))
            monkeypatch.setattr(agent._auditor, "_random", lambda numbers=numbers: next(numbers))
            agent.infer(make_samples(50, seed=len(drawn)), **options)
    assert len(drawn) == 4
    assert all(rows == drawn[0] for rows in drawn)
    assert 5 < len(drawn[0]) < 25
