"""Which policies a device takes, and that a crash leaves the old or the new one."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent.policy_store import PolicyStore, Recipient, Unchanged, check_policy
from edgeexit.bundle import Bundle
from edgeexit.messages import MAX_BYTES, Rejection
from edgeexit.policies import Confidence, PolicyDocument, Rollout, Scope, encode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import PrivateKey, generate_key, load_private_key, sign

Write = Callable[..., bytes]


@pytest.fixture
def recipient(bundle: Bundle) -> Recipient:
    return Recipient(device="press-7", cohort="presses", bundle=bundle.digest, exits=3)


@pytest.fixture
def write(bundle: Bundle, key: PrivateKey) -> Write:
    """Return a signed envelope of a document that fits, with what the test changes."""

    def envelope(
        revision: int = 5,
        *,
        exits: int = 3,
        signed_by: PrivateKey = key,
        payload_type: str = PAYLOAD_TYPE,
        **fields: Any,
    ) -> bytes:
        policy = Confidence(temperatures=(1.0,) * exits, thresholds=(0.5,) * (exits - 1))
        fitting: dict[str, Any] = {"bundle": bundle.digest, "scope": Scope(cohort="presses"), "policy": policy}
        document = PolicyDocument(revision=revision, **{**fitting, **fields})
        return sign(encode_document(document), payload_type=payload_type, key=signed_by)

    return envelope


def test_a_policy_for_the_cohort_or_the_device_is_taken(write: Write, recipient: Recipient, key: PrivateKey) -> None:
    for scope in (Scope(cohort="presses"), Scope(device="press-7")):
        taken = check_policy(write(scope=scope), [key.public_key()], recipient, {})
        assert isinstance(taken, PolicyDocument)
        assert (taken.revision, taken.scope) == (5, scope)


@pytest.mark.parametrize(
    ("changes", "reason", "revision"),
    [
        ({"bundle": "f" * 64}, "it is for bundle ffffffffffff…", 5),
        ({"exits": 4}, "it is for 4 exits, the bundle has 3", 5),
        ({"scope": Scope(cohort="ovens")}, "it is for cohort 'ovens'", 5),
        ({"scope": Scope(device="press-8")}, "it is for device 'press-8'", 5),
        ({"scope": None}, "neither a cohort nor a device", 5),
        ({"revision": 3}, "revision 3 is lower than 4", 3),
        ({"payload_type": "application/x-other"}, "envelope holds 'application/x-other'", None),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_with_its_reason(
    write: Write, recipient: Recipient, key: PrivateKey, changes: dict[str, Any], reason: str, revision: int | None
) -> None:
    refused = check_policy(write(**changes), [key.public_key()], recipient, {"cohort": 4})
    assert isinstance(refused, Rejection)
    assert reason in refused.reason
    assert refused.revision == revision


def test_a_stranger_s_signature_is_refused(write: Write, recipient: Recipient, key: PrivateKey, tmp_path: Path) -> None:
    generate_key(tmp_path / "stranger.pem")
    envelope = write(signed_by=load_private_key(tmp_path / "stranger.pem"))
    refused = check_policy(envelope, [key.public_key()], recipient, {})
    assert isinstance(refused, Rejection)
    assert "wrong signature" in refused.reason


def test_without_trusted_keys_everything_is_refused_and_the_reason_says_so(write: Write, recipient: Recipient) -> None:
    refused = check_policy(write(), [], recipient, {})
    assert isinstance(refused, Rejection)
    assert "no trusted keys are configured" in refused.reason


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
def test_garbage_is_refused_in_one_short_line(garbage: bytes, recipient: Recipient, key: PrivateKey) -> None:
    refused = check_policy(garbage, [key.public_key()], recipient, {})
    assert isinstance(refused, Rejection)
    assert len(refused.reason) <= 300
    assert refused.reason.isprintable()


def test_an_equal_revision_changes_nothing_even_with_other_content(
    write: Write, recipient: Recipient, key: PrivateKey
) -> None:
    other = Confidence(temperatures=(2.0, 2.0, 2.0), thresholds=(0.9, 0.9))
    result = check_policy(write(4, policy=other), [key.public_key()], recipient, {"cohort": 4})
    assert result == Unchanged(revision=4, reason="it is in force already")


def test_revisions_are_counted_per_slot(write: Write, recipient: Recipient, key: PrivateKey) -> None:
    pin = write(1, scope=Scope(device="press-7"))
    assert isinstance(check_policy(pin, [key.public_key()], recipient, {"cohort": 4}), PolicyDocument)


def test_a_rollout_is_taken_when_its_percentage_reaches_the_device(
    write: Write, recipient: Recipient, key: PrivateKey, half: Rollout
) -> None:
    outside = check_policy(write(rollout=half), [key.public_key()], recipient, {"cohort": 4})
    assert isinstance(outside, Unchanged)
    assert "outside the first 50 %" in outside.reason
    all_of_it = Rollout(percent=100, salt=half.salt)
    assert isinstance(
        check_policy(write(rollout=all_of_it), [key.public_key()], recipient, {"cohort": 4}), PolicyDocument
    )


def test_stored_policies_come_back_verified(
    write: Write, recipient: Recipient, key: PrivateKey, tmp_path: Path
) -> None:
    folder = tmp_path / "made" / "here"
    PolicyStore(folder).save("cohort", write(7))
    PolicyStore(folder).save("device", write(2, scope=Scope(device="press-7")))
    found = PolicyStore(folder).load([key.public_key()], recipient)
    assert {slot: document.revision for slot, document in found.items()} == {"cohort": 7, "device": 2}
    assert PolicyStore(folder).load([], recipient) == {}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "moved", "folder"])
def test_a_damaged_stored_policy_is_left_out_and_told(
    write: Write, recipient: Recipient, key: PrivateKey, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store = PolicyStore(tmp_path)
    store.save("cohort", write(7))
    path = tmp_path / "policy-cohort.json"
    content = path.read_bytes()
    if damage == "flip":
        place = content.index(b'"payload":"') + 40
        path.write_bytes(
            content[:place] + (b"B" if content[place : place + 1] == b"A" else b"A") + content[place + 1 :]
        )
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "moved":
        path.rename(tmp_path / "policy-device.json")
    else:
        path.unlink()
        path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert store.load([key.public_key()], recipient) == {}
    assert len(caplog.records) == 1
    assert "stored policy" in caplog.text


_STORING_LOOP = """
import sys
from pathlib import Path
from edgeexit.agent.policy_store import PolicyStore
store = PolicyStore(Path(sys.argv[1]))
envelopes = [path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())]
while True:
    for number, envelope in enumerate(envelopes):
        store.save("cohort", envelope)
        print(number, flush=True)
"""


def test_killed_while_storing_there_is_the_old_or_the_new_policy(
    write: Write, recipient: Recipient, key: PrivateKey, tmp_path: Path
) -> None:
    state, envelopes = tmp_path / "state", tmp_path / "envelopes"
    envelopes.mkdir()
    count = 5
    for revision in range(count):
        (envelopes / f"{revision}.json").write_bytes(write(revision))
    for turn in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", _STORING_LOOP, str(state), str(envelopes)], stdout=subprocess.PIPE, text=True
        ) as loop:
            assert loop.stdout is not None
            first = loop.stdout.readline()
            time.sleep(0.02 + 0.007 * turn)
            loop.send_signal(signal.SIGKILL)
            last = int((first + loop.stdout.read()).split("\n")[-2])
        found = PolicyStore(state).load([key.public_key()], recipient)
        assert found["cohort"].revision in {last, (last + 1) % count}
        assert [file.name for file in state.iterdir()] == ["policy-cohort.json"], "what a crash left is tidied up"
