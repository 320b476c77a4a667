"""The device guards itself: it reverts policies that fail on it, and reports what a broker withholds."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent import Agent, AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.key_set import KEY_SET_TYPE, KeySet, RoleKeys, encode_history, encode_key_set
from edgeexit.policies import Certificate, LatencyBound
from edgeexit.signing import PrivateKey, public_key_text, sign
from edgeexit.wire import State
from tests.agent.fleet import Fleet, wait_for, wait_for_revision
from tests.bundles import make_samples
from tests.disks import fill, small_disk

Change = Callable[..., AgentConfig]
PROMISING = Certificate(
    method="m", samples=9, risk=0.1, delta=0.1, observed=0, upper_bound=0.1, exit_rates=(0.5, 0.3, 0.2)
)


def wait_for_state(fleet: Fleet, config: AgentConfig, what: str, condition: Callable[[State], Any]) -> State:
    return wait_for(lambda: (state := fleet.state(config)) and condition(state) and state, what)


def test_a_policy_under_which_no_exit_fires_is_reverted_and_reported_and_never_applied_again(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(3, threshold=1.5, certificate=PROMISING))
        wait_for_revision(fleet, config, 3)
        agent.infer(make_samples(150))
        state = wait_for_state(fleet, config, "the reversion", lambda state: state.reverted)
        assert state.reverted is not None
        assert (state.revision, state.accepted, state.reverted.revision) == (0, 3, 3)
        assert "none of 150 samples exited early" in state.reverted.reason
        fleet.send_policy(config, fleet.document(3, threshold=1.5, certificate=PROMISING))
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 0
        fleet.send_policy(config, fleet.document(4, threshold=0.0, certificate=PROMISING))
        assert wait_for_revision(fleet, config, 4).reverted is None
        agent.infer(make_samples(150))
        assert agent.active.revision == 4


def test_a_policy_that_breaks_the_latency_of_its_document_is_reverted(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(3, max_latency=LatencyBound(quantile=0.9, ms=0.001)))
        wait_for_revision(fleet, config, 3)
        agent.infer(make_samples(200))
        state = wait_for_state(fleet, config, "the reversion", lambda state: state.reverted)
        assert state.reverted is not None
        assert "200 of 200 samples took longer than 0.001 ms" in state.reverted.reason


_CRASHING = """
import sys, time
from pathlib import Path
from edgeexit.agent import Agent, AgentConfig
from edgeexit.bundle import Bundle
with Agent(Bundle.open(Path(sys.argv[1])), AgentConfig.load(Path(sys.argv[2]))) as agent:
    while agent.active.revision == 0:
        time.sleep(0.01)
    print("applied", flush=True)
    time.sleep(60)
"""


def test_a_policy_under_which_the_process_is_killed_is_reverted_at_the_next_start(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, tmp_path: Path
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        f'fleet = "plant"\ndevice = "press-7"\nstate_dir = "{config.state_dir}"\n'
        f'trusted_keys = ["{config.trusted_keys[0]}"]\nbroker.url = "{config.broker.url}"\n'
    )
    fleet.send_policy(config, fleet.document(3))
    with subprocess.Popen(
        [sys.executable, "-c", _CRASHING, str(bundle.path), str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "applied\n"
        process.send_signal(signal.SIGKILL)
    fleet.received.clear()
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 0
        state = wait_for_state(fleet, config, "the reversion", lambda state: state.online and state.reverted)
        assert state.reverted is not None
        assert "the process ended without a clean stop" in state.reverted.reason
        assert (state.revision, state.accepted) == (0, 3)


def test_a_device_without_heartbeats_is_unconfirmed_until_one_arrives(
    fleet: Fleet, bundle: Bundle, changed: Change
) -> None:
    config = changed(confirm_within_s=0.5)
    with Agent(bundle, config):
        state = wait_for_state(fleet, config, "unconfirmed", lambda state: state.unconfirmed)
        assert state.confirmed is None
    config = changed(confirm_within_s=30.0)
    with Agent(bundle, config):
        fleet.send_heartbeat(config, counter=7, revision=0)
        state = wait_for_state(fleet, config, "the heartbeat", lambda state: state.online and state.confirmed)
        assert state.confirmed is not None
        assert (state.confirmed.counter, state.unconfirmed) == (7, False)


def test_a_key_set_that_revokes_the_key_of_the_active_policy_ends_its_use(
    fleet: Fleet, bundle: Bundle, changed: Change, key: PrivateKey, tmp_path: Path
) -> None:
    config = changed(policy_trial_s=0.1)
    successor = PrivateKey.generate()
    roles: Any = {
        role: RoleKeys(keys=(public_key_text(signer.public_key()),))
        for role, signer in (("root", key), ("policy", successor), ("command", successor))
    }
    payload = encode_key_set(KeySet(fleet="plant", version=1, roles=roles))
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(3))
        wait_for_revision(fleet, config, 3)
        fleet.send_keys(config, encode_history([sign(payload, payload_type=KEY_SET_TYPE, keys=[key])]))
        state = wait_for_revision(fleet, config, 0)
        assert state.accepted == 3
        assert "no trusted key signed this content" in state.problems[0]
        fleet.send_policy(config, fleet.document(4))
        wait_for_state(fleet, config, "the rejection", lambda state: state.rejected)
        fleet.send_policy(config, fleet.document(4), key=successor)
        assert wait_for_revision(fleet, config, 4).problems == ()
        assert agent.active.revision == 4


def test_a_policy_that_arrives_before_the_key_set_that_it_needs_is_used_afterwards(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, key: PrivateKey
) -> None:
    successor = PrivateKey.generate()
    roles: Any = {
        role: RoleKeys(keys=(public_key_text(signer.public_key()),))
        for role, signer in (("root", key), ("policy", successor))
    }
    payload = encode_key_set(KeySet(fleet="plant", version=1, roles=roles))
    with Agent(bundle, config):
        fleet.send_policy(config, fleet.document(3), key=successor)
        wait_for_state(fleet, config, "the rejection", lambda state: state.rejected)
        fleet.send_keys(config, encode_history([sign(payload, payload_type=KEY_SET_TYPE, keys=[key])]))
        assert wait_for_revision(fleet, config, 3).rejected is None


def test_a_policy_that_arrives_while_the_disk_is_full_is_reported_and_used_when_there_is_room(
    fleet: Fleet, bundle: Bundle, changed: Change, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        config = changed(state_dir=disk)
        with Agent(bundle, config) as agent:
            wait_for_revision(fleet, config, 0)
            filler = fill(disk)
            fleet.send_policy(config, fleet.document(3))
            text = "policy revision 3 is accepted, but cannot be stored: No space left on device"
            state = wait_for_state(fleet, config, "the problem", lambda state: text in state.problems)
            assert (state.revision, state.rejected) == (0, None)
            assert len(agent.infer(make_samples(5)).predictions) == 5
            filler.unlink()
            wait_for_state(fleet, config, "no problem", lambda state: state.revision == 3 and not state.problems)


def test_after_the_state_folder_was_removed_policies_are_stored_again(
    fleet: Fleet, bundle: Bundle, changed: Change
) -> None:
    config = changed(policy_trial_s=0.1)
    with Agent(bundle, config):
        fleet.send_policy(config, fleet.document(3))
        wait_for_revision(fleet, config, 3)
        wait_for(lambda: list(config.state_dir.glob("last_good.*")), "the end of the trial")
        shutil.rmtree(config.state_dir)
        wait_for(lambda: list(config.state_dir.glob("accepted.*")), "the files to be stored again")
    fleet.send_policy_bytes(config, b"")
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 3
