"""A policy or heartbeat at the broker uses up its number if one of our keys signed it for its topic, and only then."""

import msgspec
import pytest
from edgeexit_calibration import CohortAddress
from edgeexit_calibration.publishing import unverified_messages
from edgeexit_calibration.publishing.signed_revisions import (
    RevisionRecorder,
    SignedRevision,
    read_heartbeat,
    read_policy,
)
from edgeexit_calibration.publishing.unverified_messages import UnverifiedMessages
from edgeexit_calibration.store.cohorts import find_cohort

from edgeexit.policies import PolicyDocument, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import HEARTBEAT_TYPE, MAX_BYTES, Heartbeat, encode, heartbeat_topic, policy_topic

KEY, OTHER = PrivateKey.generate(), PrivateKey.generate()
ADDRESS = CohortAddress("shop", "b" * 64, "cameras")
POLICY_TOPIC, HEARTBEAT_TOPIC = policy_topic(*ADDRESS), heartbeat_topic(*ADDRESS)
DOCUMENT = PolicyDocument(
    bundle=ADDRESS.bundle,
    revision=7,
    policy=Confidence(temperatures=(1.0, 1.0), thresholds=(0.5,)),
    scope=Scope(fleet=ADDRESS.fleet, cohort=ADDRESS.cohort),
)
HEARTBEAT = Heartbeat(fleet=ADDRESS.fleet, bundle=ADDRESS.bundle, cohort=ADDRESS.cohort, revision=7, counter=3)


def policy(document=DOCUMENT, key=KEY, payload_type=PAYLOAD_TYPE):
    return sign(encode_document(document), payload_type=payload_type, keys=[key])


def read(payload, topic=POLICY_TOPIC, fleet="shop"):
    return read_policy(topic, payload, fleet=fleet, keys=[OTHER.public_key(), KEY.public_key()])


def test_the_number_of_a_signed_policy_is_read_also_if_this_version_does_not_know_its_kind():
    assert read(policy()) == SignedRevision(ADDRESS, 7, encode_document(DOCUMENT))
    newer = msgspec.json.encode({**msgspec.to_builtins(DOCUMENT), "policy": {"kind": "newer"}, "added": 1})
    found = read(sign(newer, payload_type=PAYLOAD_TYPE, keys=[KEY]))
    assert (found.address, found.revision) == (ADDRESS, 7)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[" * 100_000,
        policy(key=PrivateKey.generate()),
        policy(payload_type=HEARTBEAT_TYPE),
        policy(msgspec.structs.replace(DOCUMENT, scope=None)),
        policy(msgspec.structs.replace(DOCUMENT, scope=Scope(fleet="shop", device="camera-1"))),
        policy(msgspec.structs.replace(DOCUMENT, scope=Scope(fleet="shop", cohort="others"))),
        policy(msgspec.structs.replace(DOCUMENT, bundle="c" * 64)),
        sign(b"[" * 100_000, payload_type=PAYLOAD_TYPE, keys=[KEY]),
        sign(b'{"bundle": "\xff"}', payload_type=PAYLOAD_TYPE, keys=[KEY]),
    ],
)
def test_anything_else_on_the_topic_is_ignored(payload):
    assert read(payload) is None


def test_a_policy_of_a_fleet_that_trusts_the_same_key_is_ignored():
    assert read(policy(), fleet="other") is None
    assert read(policy(), topic=policy_topic("other", ADDRESS.bundle, ADDRESS.cohort)) is None


def test_a_heartbeat_is_believed_on_its_own_topic_with_our_signature_only():
    def beat(key=KEY, topic=HEARTBEAT_TOPIC, fleet="shop"):
        payload = sign(encode(HEARTBEAT), payload_type=HEARTBEAT_TYPE, keys=[key])
        return read_heartbeat(topic, payload, fleet=fleet, keys=[KEY.public_key()])

    assert beat() == HEARTBEAT
    assert beat(key=OTHER) is beat(fleet="other") is beat(topic=heartbeat_topic("shop", "c" * 64, "cameras")) is None


def test_a_recorded_revision_only_rises_and_its_cohort_is_added(database):
    recorder = RevisionRecorder(database)
    for revision, highest in ((5, 5), (3, 5), (9, 9)):
        recorder.record(SignedRevision(ADDRESS, revision, b"{}"))
        with database.reading() as session:
            assert find_cohort(session, ADDRESS).highest_unknown_revision == highest


def test_the_queue_is_bounded_by_number_and_bytes_and_keeps_a_message_until_it_is_done(monkeypatch):
    monkeypatch.setattr(unverified_messages, "_MAX_MESSAGES", 3)
    monkeypatch.setattr(unverified_messages, "_MAX_TOTAL_BYTES", 2 * MAX_BYTES)
    queue = UnverifiedMessages()
    for payload in (b"", b"x" * (MAX_BYTES + 1), b"1", b"2", b"3", b"4"):
        queue.put("topic", payload)
    assert len(queue) == 3
    assert next(iter(queue.waiting())) == ("topic", b"1")  # e.g. the database failed
    assert [payload for _, payload in queue.waiting()] == [b"1", b"2", b"3"]
    for payload in (b"x" * MAX_BYTES, b"x" * MAX_BYTES, b"x"):
        queue.put("topic", payload)
    assert len(queue) == 2


def test_a_flood_is_verified_in_steps_of_limited_time(monkeypatch):
    monkeypatch.setattr(unverified_messages, "_MAX_VERIFYING_S", 0.0)
    queue = UnverifiedMessages()
    queue.put("topic", b"1")
    assert list(queue.waiting()) == []
    assert len(queue) == 1
