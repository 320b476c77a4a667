"""Recording an inference: counting and audits never make it fail, and nothing piles up if they do."""

import logging
from collections.abc import Callable

import pytest

from edgeexit.agent import Agent, AgentConfig
from edgeexit.agent.counters import Counters
from edgeexit.bundle import Bundle
from tests.bundles import make_samples


def test_samples_of_an_inference_that_cannot_be_counted_wait_for_no_label(
    bundle: Bundle,
    changed: Callable[..., AgentConfig],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(Counters, "record", refuse)
    caplog.set_level(logging.ERROR)
    with Agent(bundle, changed(audit_fraction=1.0, feedback_window_s=3600.0)) as agent:
        assert len(agent.infer(make_samples(2), id="17").predictions) == 2
        assert not agent.feedback("17", [0, 1])
        agent.infer(make_samples(2), id="18")
    lines = [text for record in caplog.records if "cannot be counted or audited" in (text := record.getMessage())]
    assert lines == ["an inference cannot be counted or audited: RuntimeError('no room')"]
