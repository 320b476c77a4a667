"""Which policies a device accepts, ignores and rejects."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent.policy.check import Accepted, PolicySlot, Recipient, Unchanged, check_policy
from edgeexit.key_set import TrustedKeys
from edgeexit.policies import PolicyDocument, Rollout, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import MAX_REVISION, PAYLOAD_TYPE, Certificate
from edgeexit.policies.entropy import Entropy
from edgeexit.signing import PrivateKey, generate_key, load_private_key, sign
from edgeexit.wire import MAX_BYTES, Rejection

MakeDocument = Callable[..., PolicyDocument]
MakeEnvelope = Callable[..., bytes]


def trusted(*keys: PrivateKey) -> TrustedKeys:
    return TrustedKeys.configured("plant", trusted=[key.public_key() for key in keys])


FOR_NINE_CLASSES = Entropy(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), classes=9)


def test_a_policy_for_the_cohort_or_the_device_is_accepted(
    make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey
) -> None:
    for scope in (Scope(fleet="plant", cohort="presses"), Scope(fleet="plant", device="press-7")):
        accepted = check_policy(make_envelope(scope=scope), trusted(key), recipient, {})
        assert isinstance(accepted, PolicyDocument)
        assert (accepted.revision, accepted.scope) == (5, scope)


@pytest.mark.parametrize(
    ("changes", "reason", "revision"),
    [
        ({"bundle": "f" * 64}, "it is for bundle ffffffffffff…", 5),
        ({"exits": 4}, "policy 'confidence' is for 4 exits, the bundle has 3", 5),
        ({"policy": FOR_NINE_CLASSES}, "policy 'entropy' is for 9 classes, the bundle has 4", 5),
        (
            {"scope": Scope(fleet="foundry", cohort="presses")},
            "it is for fleet 'foundry', this fleet is 'plant'",
            5,
        ),
        (
            {"scope": Scope(fleet="foundry", device="press-7")},
            "it is for fleet 'foundry', this fleet is 'plant'",
            5,
        ),
        (
            {"scope": Scope(fleet="plant", cohort="ovens")},
            "it is for cohort 'ovens', this cohort is 'presses'",
            5,
        ),
        (
            {"scope": Scope(fleet="plant", device="press-8")},
            "it is for device 'press-8', this device is 'press-7'",
            5,
        ),
        ({"scope": None}, "neither a cohort nor a device", 5),
        ({"revision": 3}, "revision 3 is lower than the current revision 4", 3),
        (
            {"revision": 0, "scope": Scope(fleet="plant", device="press-7")},
            "this device has revision 0 with different content",
            0,
        ),
        ({"payload_type": "application/x-other"}, "envelope has payload type 'application/x-other'", None),
    ],
)
def test_a_policy_that_does_not_fit_is_rejected_with_a_reason(
    make_document: MakeDocument,
    make_envelope: MakeEnvelope,
    recipient: Recipient,
    key: PrivateKey,
    changes: dict[str, Any],
    reason: str,
    revision: int | None,
) -> None:
    rejection = check_policy(
        make_envelope(**changes), trusted(key), recipient, {"cohort": Accepted(4, make_document(4))}
    )
    assert isinstance(rejection, Rejection)
    assert reason in rejection.reason
    assert rejection.revision == revision


def test_a_policy_signed_by_an_unknown_key_is_rejected(
    make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey, tmp_path: Path
) -> None:
    generate_key(tmp_path / "unknown.pem")
    envelope = make_envelope(signed_by=load_private_key(tmp_path / "unknown.pem"))
    rejection = check_policy(envelope, trusted(key), recipient, {})
    assert isinstance(rejection, Rejection)
    assert "wrong signature" in rejection.reason


def test_without_trusted_keys_every_policy_is_rejected(make_envelope: MakeEnvelope, recipient: Recipient) -> None:
    rejection = check_policy(make_envelope(), trusted(), recipient, {})
    assert isinstance(rejection, Rejection)
    assert "no key may sign policies here" in rejection.reason


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff not json",
        b'{"a":' + b"[" * 100_000,
        '{"payload":"é","payloadType":"x","signatures":[]}'.encode(),
        b'{"payload":"","payloadType":"x","signatures":[{"keyid":"' + b"k\\n" * 5000 + b'","sig":""}]}',
        b"x" * (MAX_BYTES + 1),
    ],
    ids=["binary", "deep", "not ascii", "long key id", "too large"],
)
def test_garbage_is_rejected_with_a_reason_of_one_short_line(
    garbage: bytes, recipient: Recipient, key: PrivateKey
) -> None:
    rejection = check_policy(garbage, trusted(key), recipient, {})
    assert isinstance(rejection, Rejection)
    assert len(rejection.reason) <= 300
    assert rejection.reason.isprintable()


def test_a_revision_above_the_last_one_is_rejected_and_the_last_one_is_accepted(
    make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey
) -> None:
    keys = trusted(key)
    assert isinstance(check_policy(make_envelope(MAX_REVISION), keys, recipient, {}), PolicyDocument)
    rejection = check_policy(make_envelope(MAX_REVISION + 1), keys, recipient, {})
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "policy document: Expected `int` <= 9007199254740992 - at `$.revision`"


def test_the_current_document_changes_nothing_and_a_different_one_with_its_revision_is_rejected(
    make_document: MakeDocument, make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey, half: Rollout
) -> None:
    keys, current = trusted(key), {"cohort": Accepted(4, make_document(4, rollout=half))}
    for rollout in (half, Rollout(percent=100, salt=half.salt)):
        again = check_policy(make_envelope(4, rollout=rollout), keys, recipient, current)
        assert again == Unchanged(slot="cohort", revision=4, reason="this device has it already", is_held=True)
    other = Confidence(temperatures=(2.0, 2.0, 2.0), thresholds=(0.9, 0.9))
    certificate = Certificate(
        method="m", samples=9, risk=0.1, delta=0.1, observed=0, upper_bound=0.1, exit_rates=(0.5, 0.3, 0.2)
    )
    for changes in ({"policy": other}, {"certificate": certificate}):
        rejection = check_policy(make_envelope(4, **changes), keys, recipient, current)
        assert isinstance(rejection, Rejection)
        assert "this device has revision 4 with different content" in rejection.reason
        assert rejection.revision == 4


def test_each_slot_has_its_own_revisions(
    make_document: MakeDocument, make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey
) -> None:
    device_policy = make_envelope(1, scope=Scope(fleet="plant", device="press-7"))
    assert isinstance(
        check_policy(device_policy, trusted(key), recipient, {"cohort": Accepted(4, make_document(4))}), PolicyDocument
    )


def test_a_policy_is_accepted_once_its_rollout_includes_the_device(
    make_document: MakeDocument, make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey, half: Rollout
) -> None:
    current = {"cohort": Accepted(4, make_document(4))}
    outside = check_policy(make_envelope(rollout=half), trusted(key), recipient, current)
    assert isinstance(outside, Unchanged)
    assert "the rollout to 50 % of the devices does not include this device" in outside.reason
    full_rollout = Rollout(percent=100, salt=half.salt)
    assert isinstance(
        check_policy(make_envelope(rollout=full_rollout), trusted(key), recipient, current), PolicyDocument
    )


def test_a_document_of_the_accepted_revision_is_accepted_again_if_the_device_has_lost_it(
    make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey
) -> None:
    lost: dict[PolicySlot, Accepted] = {"cohort": Accepted(5, None)}
    assert isinstance(check_policy(make_envelope(5), trusted(key), recipient, lost), PolicyDocument)
    older = check_policy(make_envelope(4), trusted(key), recipient, lost)
    assert isinstance(older, Rejection)
    assert "revision 4 is lower than the current revision 5" in older.reason


def test_a_reverted_revision_is_never_accepted_again_and_a_higher_one_is(
    make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey
) -> None:
    reverted: dict[PolicySlot, Accepted] = {"cohort": Accepted(5, None, reverted=True)}
    again = check_policy(make_envelope(5), trusted(key), recipient, reverted)
    assert isinstance(again, Unchanged)
    assert "this device has reverted it" in again.reason
    assert isinstance(check_policy(make_envelope(6), trusted(key), recipient, reverted), PolicyDocument)


def test_as_many_keys_as_the_configuration_demands_must_have_signed(
    make_document: MakeDocument, recipient: Recipient, key: PrivateKey
) -> None:
    other = PrivateKey.generate()
    keys = TrustedKeys.configured("plant", policy=(key.public_key(), other.public_key()), policy_threshold=2)
    payload = encode_document(make_document())
    for signers in ((key,), (key, key)):
        rejection = check_policy(sign(payload, payload_type=PAYLOAD_TYPE, keys=signers), keys, recipient, {})
        assert isinstance(rejection, Rejection)
        assert "only 1 of the 2 trusted keys" in rejection.reason
    both = sign(payload, payload_type=PAYLOAD_TYPE, keys=(key, other))
    assert isinstance(check_policy(both, keys, recipient, {}), PolicyDocument)
