"""An agent that was opened before a fork, with a real broker: the child refuses it, and the parent is not disturbed."""

import multiprocessing
import os
import pickle
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeexit.agent import Agent, AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.errors import ConfigError, InferenceError
from edgeexit.wire import State
from tests.agent.fleet import Fleet, wait_for, wait_for_reports
from tests.bundles import make_samples
from tests.forking import in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

REFUSAL = "does not survive the fork into process"


def refuses(call):
    with pytest.raises(InferenceError, match=REFUSAL):
        call()


def use_and_close(agent: Agent) -> None:
    refuses(lambda: agent.infer(make_samples(2), id="door"))
    refuses(lambda: agent.submit(make_samples(2)))
    refuses(agent.probe)
    refuses(lambda: agent.feedback("door", [0, 0]))
    refuses(lambda: agent.unacknowledged)
    assert not agent.connected
    assert agent.totals().exited == (0, 0, 0)
    agent.__exit__(None, None, None)


def test_a_child_refuses_the_agent_and_leaves_connection_and_database_to_its_parent(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config) as agent:
        agent.infer(make_samples(10))
        wait_for(lambda: agent.connected, "the connection")
        for _ in range(3):
            in_child(lambda: use_and_close(agent))
        process = multiprocessing.get_context("fork").Process(target=use_and_close, args=(agent,))
        process.start()
        process.join(20)
        assert process.exitcode == 0
        assert agent.connected
        assert all(state.online for state in fleet.messages(config, State))
        agent.infer(make_samples(5))
        wait_for_reports(fleet, config, 15)
    wait_for(lambda: not fleet.messages(config, State)[-1].online, "the offline state")


def test_locks_that_the_agents_threads_hold_do_not_block_the_child(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config) as agent:
        release, held = threading.Event(), threading.Event()

        def hold() -> None:
            with agent._counters._lock, agent._auditor._lock, agent._auditor._awaiting._lock, agent._pending_changed:
                held.set()
                release.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(30)
        try:
            in_child(lambda: use_and_close(agent))
        finally:
            release.set()
            holder.join()


def test_a_child_opens_an_agent_of_its_own_with_a_state_dir_of_its_own(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, tmp_path: Path
) -> None:
    own = msgspec.structs.replace(config, device="child", state_dir=tmp_path / "child")
    with Agent(bundle, config) as agent:
        expected = agent.infer(make_samples(4)).exits

        def check() -> None:
            with pytest.raises(ConfigError, match="another agent uses state_dir"), Agent(bundle, config):
                pass
            with Agent(bundle, own) as opened:
                assert np.array_equal(opened.infer(make_samples(4)).exits, expected)
                wait_for(lambda: opened.connected, "the connection of the child")

        in_child(check)
        wait_for(lambda: agent.connected, "the connection")


def test_a_child_that_lives_on_does_not_keep_the_lock_on_the_state_dir(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with Agent(bundle, config) as agent:
            agent.infer(make_samples(1))
        assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_an_agent_cannot_be_sent_to_a_spawned_process(fleet: Fleet, bundle: Bundle, config: AgentConfig) -> None:
    with pytest.raises(TypeError, match="an Agent cannot be sent to another process"):
        pickle.dumps(Agent(bundle, config))
