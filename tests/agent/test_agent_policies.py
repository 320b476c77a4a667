"""Policies over the air: which ones a device accepts and rejects, and which is active after a restart."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeexit.agent import Agent, AgentConfig
from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.policies import PolicyDocument, Rollout, Scope
from edgeexit.policies.confidence import Confidence
from edgeexit.signing import PrivateKey, generate_key, load_private_key
from edgeexit.wire import MAX_BYTES, State
from tests.agent.fleet import Fleet, wait_for, wait_for_rejection, wait_for_revision
from tests.broker import RealBroker
from tests.bundles import make_bundle, make_samples

DEVICE_SCOPE = Scope(fleet="plant", device="press-7")
Change = Callable[..., AgentConfig]


def test_an_accepted_policy_stays_active_after_a_restart(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    samples = make_samples(50)
    with caplog.at_level(logging.INFO), Agent(bundle, config) as agent:
        state = wait_for_revision(fleet, config, 0)
        assert (state.bundle, state.cohort, state.accepted, state.policy) == (bundle.digest, "default", 0, "confidence")
        assert set(agent.infer(samples).exits) == {2}, "without a policy every sample runs to full depth"

        fleet.send_policy(config, fleet.document(3, threshold=0.0))
        wait_for_revision(fleet, config, 3)
        assert agent.active.revision == 3
        assert set(agent.infer(samples).exits) == {0}
    assert "policy accepted: revision 3" in caplog.text
    last = fleet.state(config)
    assert last == State(
        online=False,
        start=state.start,
        uptime_s=last.uptime_s,
        bundle=bundle.digest,
        cohort="default",
        revision=3,
        accepted=3,
        policy="confidence",
        agent=state.agent,
        key=state.key,
        audit_fraction=0.0,
    )

    fleet.received.clear()
    with Agent(bundle, config) as again:
        assert again.active.revision == 3
        assert wait_for_revision(fleet, config, 3).start != state.start


def test_unreachable_thresholds_are_logged_when_their_policy_becomes_active(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(1))
        wait_for_revision(fleet, config, 1)
        assert "no sample can exit at" not in caplog.text
        fleet.send_policy(config, fleet.document(2, threshold=1.5))
        wait_for_revision(fleet, config, 2)
        warning = "policy 'confidence': no sample can exit at 'e0' (threshold 1.5, highest possible score 1)"
        assert caplog.text.count(warning) == 1
        assert set(agent.infer(make_samples(5)).exits) == {2}
    with Agent(bundle, config):
        assert caplog.text.count(warning) == 2


def test_rejected_policies_are_reported_and_the_active_policy_stays(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, tmp_path: Path
) -> None:
    generate_key(tmp_path / "unknown.pem")
    unknown = load_private_key(tmp_path / "unknown.pem")
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(5))
        wait_for_revision(fleet, config, 5)
        for document, reason in (
            (fleet.document(4), "revision 4 is lower than the current revision 5"),
            (fleet.document(6, bundle="0" * 64), "it is for bundle 000000000000"),
            (fleet.document(7, exits=4), "policy 'confidence' is for 4 exits"),
            (
                fleet.document(8, scope=Scope(fleet="foundry", cohort="default")),
                "fleet 'foundry', this fleet is 'plant'",
            ),
        ):
            fleet.send_policy(config, document)
            state = wait_for_rejection(fleet, config, reason)
            assert state.rejected is not None
            assert (state.revision, state.rejected.revision) == (5, document.revision)
        fleet.send_policy(config, fleet.document(8), key=unknown)
        wait_for_rejection(fleet, config, "wrong signature")
        fleet.send_policy_bytes(config, b"\x00garbage")
        wait_for_rejection(fleet, config, "not a signed envelope")
        fleet.send_policy_bytes(config, b"x" * (MAX_BYTES + 10))
        wait_for_rejection(fleet, config, "larger than")
        assert agent.active.revision == 5

        fleet.send_policy(config, fleet.document(9))
        assert wait_for_revision(fleet, config, 9).rejected is None


def test_without_trusted_keys_a_policy_is_rejected_with_a_reason(fleet: Fleet, bundle: Bundle, changed: Change) -> None:
    config = changed(trusted_keys=())
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(1))
        wait_for_rejection(fleet, config, "no key may sign policies here")
        assert agent.active.revision == 0


def test_the_same_document_is_ignored_and_a_different_one_with_its_revision_is_rejected(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(2, threshold=0.4))
        wait_for_revision(fleet, config, 2)
        fleet.send_policy(config, fleet.document(2, threshold=0.4))
        wait_for(lambda: "revision 2 changes nothing" in caplog.text, "the second message")
        state = fleet.state(config)
        assert state is not None
        assert state.rejected is None
        fleet.send_policy(config, fleet.document(2, threshold=0.9))
        wait_for_rejection(fleet, config, "this device has revision 2 with different content")
        assert agent.active.policy.thresholds == (0.4, 0.4)


def test_a_rejection_is_reported_until_any_valid_policy_arrives(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, half: Rollout
) -> None:
    with Agent(bundle, config):
        fleet.send_policy(config, fleet.document(5))
        wait_for_revision(fleet, config, 5)
        for good in (fleet.document(5), fleet.document(6, rollout=half)):
            fleet.send_policy_bytes(config, b"garbage")
            wait_for_rejection(fleet, config, "not a signed envelope")
            fleet.send_policy(config, good)
            wait_for(lambda: (s := fleet.state(config)) and s.rejected is None, "a state without a rejection")
            assert fleet.state(config).revision == 5  # type: ignore[union-attr]


def test_a_policy_becomes_active_once_its_rollout_includes_the_device(
    fleet: Fleet, bundle: Bundle, config: AgentConfig, half: Rollout, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(2))
        wait_for_revision(fleet, config, 2)
        fleet.send_policy(config, fleet.document(3, rollout=half))
        wait_for(
            lambda: "the rollout to 50 % of the devices does not include this device" in caplog.text,
            "the rollout's first step",
        )
        assert agent.active.revision == 2
        fleet.send_policy(config, fleet.document(3, rollout=Rollout(percent=100, salt=half.salt)))
        wait_for_revision(fleet, config, 3)


def test_a_policy_for_the_device_overrides_the_policy_for_its_cohort(
    broker: RealBroker, fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    with Agent(bundle, config) as agent:
        fleet.send_policy(config, fleet.document(2, threshold=0.1, scope=DEVICE_SCOPE))
        wait_for_revision(fleet, config, 2)
        fleet.send_policy(config, fleet.document(7, threshold=0.9))
        wait_for(lambda: list(config.state_dir.glob("policy.*.cohort.*.json")), "the cohort's policy on disk")
        assert agent.active[:2] == (2, fleet.document(2, threshold=0.1).policy)
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 2
    broker.stop()  # because it would send the retained policy for the device again
    next(config.state_dir.glob("policy.*.device.*.json")).unlink()
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 7


def test_a_device_that_connects_later_gets_the_retained_policy(
    fleet: Fleet, bundle: Bundle, config: AgentConfig
) -> None:
    fleet.send_policy(config, fleet.document(4))
    with Agent(bundle, config):
        wait_for_revision(fleet, config, 4)


def test_the_policy_of_the_bundle_is_used_if_the_stored_policy_is_damaged(
    tmp_path: Path, config: AgentConfig, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle(tmp_path / "own", seed=5)
    own = Confidence(temperatures=(1.0, 1.0, 1.0), thresholds=(0.3, 0.3))
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=own))
    fleet.bundle = bundle
    with Agent(bundle, config) as agent:
        assert agent.active[:2] == (0, own)
        fleet.send_policy(config, fleet.document(1))
        wait_for_revision(fleet, config, 1)
        fleet.send_policy_bytes(config, b"")
    next(config.state_dir.glob("policy.*.cohort.*.json")).write_bytes(b'{"payload":"half of an envel')
    with Agent(bundle, config) as agent:
        assert agent.active[:2] == (0, own)
    assert ".json' is not used" in caplog.text

    (bundle.path / "policy.json").write_bytes(b"not even JSON")
    with Agent(bundle, config) as agent:
        assert set(agent.infer(make_samples(20)).exits) == {2}
    assert "runs to full depth" in caplog.text


def test_a_policy_of_one_bundle_is_not_used_with_another(
    tmp_path: Path, config: AgentConfig, fleet: Fleet, bundle: Bundle
) -> None:
    with Agent(bundle, config):
        fleet.send_policy(config, fleet.document(9))
        wait_for_revision(fleet, config, 9)
    other = make_bundle(tmp_path / "other", seed=9)
    with Agent(other, config) as agent:
        assert agent.active.revision == 0
        state = wait_for(
            lambda: (s := fleet.state(config)) and s.online and s.bundle == other.digest and s, "the new bundle"
        )
        time.sleep(0.2)
        assert state.rejected is None, "the retained policy of the old bundle is ignored"
        fleet.bundle = other
        fleet.send_policy(config, fleet.document(1))
        wait_for_revision(fleet, config, 1)
    fleet.bundle = bundle
    fleet.send_policy(config, fleet.document(3))
    with Agent(bundle, config) as agent:
        assert agent.active.revision == 9
        wait_for_rejection(fleet, config, "revision 3 is lower than the current revision 9")


def test_a_key_for_bundles_cannot_sign_policies_and_vice_versa(
    fleet: Fleet, bundle: Bundle, changed: Change, key: PrivateKey, tmp_path: Path
) -> None:
    bundle_key = generate_key(tmp_path / "release.pem")
    for_policies, *_ = changed().trusted_keys
    config = changed(trusted_keys=(), policy_keys=(for_policies,), bundle_keys=(bundle_key,), signed_bundle=True)
    bundle.sign(key)
    with pytest.raises(BundleError, match=r"signature\.json: wrong signature"):
        Agent(bundle, config)
    bundle.sign(load_private_key(tmp_path / "release.pem"))
    with Agent(bundle, config):
        fleet.send_policy(config, fleet.document(1))
        wait_for_revision(fleet, config, 1)
    swapped = changed(trusted_keys=(), policy_keys=(bundle_key,), bundle_keys=(bundle_key,), signed_bundle=True)
    with Agent(bundle, swapped):
        fleet.send_policy(swapped, fleet.document(2))
        wait_for_rejection(fleet, swapped, "wrong signature")


def test_an_agent_that_requires_a_signed_bundle_refuses_others(
    tmp_path: Path, changed: Change, key: PrivateKey
) -> None:
    config = changed(signed_bundle=True)
    bundle = make_bundle(tmp_path / "signed", seed=3)
    with pytest.raises(BundleError, match=r"signature\.json is missing"):
        Agent(bundle, config)
    generate_key(tmp_path / "unknown.pem")
    bundle.sign(load_private_key(tmp_path / "unknown.pem"))
    with pytest.raises(BundleError, match=r"signature\.json"):
        Agent(bundle, config)
    bundle.sign(key)
    with Agent(bundle, config) as agent:
        assert len(agent.infer(make_samples(3)).predictions) == 3
