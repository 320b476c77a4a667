"""Which policies a device takes, and that a crash leaves the old or the new one."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeexit.agent.policy_store import PolicyStore, Recipient, Unchanged, check_policy
from edgeexit.bundle import Bundle
from edgeexit.policies import PolicyDocument, Rollout, Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE, Certificate
from edgeexit.policies.entropy import Entropy
from edgeexit.signing import PrivateKey, generate_key, load_private_key, sign
from edgeexit.wire import MAX_BYTES, Rejection

Make = Callable[..., PolicyDocument]
Write = Callable[..., bytes]

FOR_NINE_CLASSES = Entropy(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), classes=9)


@pytest.fixture
def recipient(bundle: Bundle) -> Recipient:
    return Recipient(fleet="plant", device="press-7", cohort="presses", bundle=bundle.digest, exits=3, classes=4)


@pytest.fixture
def make(bundle: Bundle) -> Make:
    """Return a document that fits, with what the test changes."""

    def document(revision: int = 5, *, exits: int = 3, **fields: Any) -> PolicyDocument:
        policy = Confidence(temperatures=(1.0,) * exits, thresholds=(0.5,) * (exits - 1))
        fitting = {"bundle": bundle.digest, "scope": Scope(fleet="plant", cohort="presses"), "policy": policy}
        return PolicyDocument(revision=revision, **{**fitting, **fields})

    return document


@pytest.fixture
def write(make: Make, key: PrivateKey) -> Write:
    """Return the signed envelope of such a document."""

    def envelope(
        revision: int = 5, *, signed_by: PrivateKey = key, payload_type: str = PAYLOAD_TYPE, **fields: Any
    ) -> bytes:
        return sign(encode_document(make(revision, **fields)), payload_type=payload_type, key=signed_by)

    return envelope


def test_a_policy_for_the_cohort_or_the_device_is_taken(write: Write, recipient: Recipient, key: PrivateKey) -> None:
    for scope in (Scope(fleet="plant", cohort="presses"), Scope(fleet="plant", device="press-7")):
        taken = check_policy(write(scope=scope), [key.public_key()], recipient, {})
        assert isinstance(taken, PolicyDocument)
        assert (taken.revision, taken.scope) == (5, scope)


@pytest.mark.parametrize(
    ("changes", "reason", "revision"),
    [
        ({"bundle": "f" * 64}, "it is for bundle ffffffffffff…", 5),
        ({"exits": 4}, "it is for 4 exits, the bundle has 3", 5),
        ({"policy": FOR_NINE_CLASSES}, "it is for 9 classes, the bundle has 4", 5),
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
        ({"revision": 3}, "revision 3 is lower than 4", 3),
        ({"revision": 0, "scope": Scope(fleet="plant", device="press-7")}, "revision 0 is in force", 0),
        ({"payload_type": "application/x-other"}, "envelope holds 'application/x-other'", None),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_with_its_reason(
    make: Make,
    write: Write,
    recipient: Recipient,
    key: PrivateKey,
    changes: dict[str, Any],
    reason: str,
    revision: int | None,
) -> None:
    refused = check_policy(write(**changes), [key.public_key()], recipient, {"cohort": make(4)})
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


def test_the_document_in_force_changes_nothing_and_another_of_its_revision_is_refused(
    make: Make, write: Write, recipient: Recipient, key: PrivateKey, half: Rollout
) -> None:
    keys, in_force = [key.public_key()], {"cohort": make(4, rollout=half)}
    for rollout in (half, Rollout(percent=100, salt=half.salt)):
        again = check_policy(write(4, rollout=rollout), keys, recipient, in_force)
        assert again == Unchanged(revision=4, reason="it is in force already")
    other = Confidence(temperatures=(2.0, 2.0, 2.0), thresholds=(0.9, 0.9))
    certificate = Certificate(
        method="m", samples=9, risk=0.1, delta=0.1, observed=0, upper_bound=0.1, exit_rates=(0.5, 0.3, 0.2)
    )
    for changes in ({"policy": other}, {"certificate": certificate}):
        refused = check_policy(write(4, **changes), keys, recipient, in_force)
        assert isinstance(refused, Rejection)
        assert "revision 4 is in force with other content" in refused.reason
        assert refused.revision == 4


def test_revisions_are_counted_per_slot(make: Make, write: Write, recipient: Recipient, key: PrivateKey) -> None:
    pin = write(1, scope=Scope(fleet="plant", device="press-7"))
    assert isinstance(check_policy(pin, [key.public_key()], recipient, {"cohort": make(4)}), PolicyDocument)


def test_a_rollout_is_taken_when_its_percentage_reaches_the_device(
    make: Make, write: Write, recipient: Recipient, key: PrivateKey, half: Rollout
) -> None:
    in_force = {"cohort": make(4)}
    outside = check_policy(write(rollout=half), [key.public_key()], recipient, in_force)
    assert isinstance(outside, Unchanged)
    assert "outside the first 50 %" in outside.reason
    all_of_it = Rollout(percent=100, salt=half.salt)
    assert isinstance(check_policy(write(rollout=all_of_it), [key.public_key()], recipient, in_force), PolicyDocument)


def test_stored_policies_come_back_verified(
    write: Write, recipient: Recipient, key: PrivateKey, tmp_path: Path
) -> None:
    folder = tmp_path / "made" / "here"
    PolicyStore(folder, recipient).save("cohort", write(7))
    PolicyStore(folder, recipient).save("device", write(2, scope=Scope(fleet="plant", device="press-7")))
    found = PolicyStore(folder, recipient).load([key.public_key()])
    assert {slot: document.revision for slot, document in found.items()} == {"cohort": 7, "device": 2}
    assert PolicyStore(folder, recipient).load([]) == {}


@pytest.mark.parametrize(
    "moved_to",
    [{"bundle": "f" * 64}, {"cohort": "ovens"}, {"fleet": "foundry"}],
    ids=["another bundle", "another cohort", "another fleet"],
)
def test_a_device_that_comes_back_goes_on_from_its_revision(
    write: Write,
    recipient: Recipient,
    key: PrivateKey,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    moved_to: dict[str, str],
) -> None:
    keys = [key.public_key()]
    PolicyStore(tmp_path, recipient).save("cohort", write(9))
    away = msgspec.structs.replace(recipient, **moved_to)
    assert PolicyStore(tmp_path, away).load(keys) == {}
    scope = Scope(fleet=away.fleet, cohort=away.cohort)
    PolicyStore(tmp_path, away).save("cohort", write(2, scope=scope, bundle=away.bundle))
    assert PolicyStore(tmp_path, away).load(keys)["cohort"].revision == 2
    back = PolicyStore(tmp_path, recipient).load(keys)
    assert back["cohort"].revision == 9
    replayed = check_policy(write(3), keys, recipient, back)
    assert isinstance(replayed, Rejection)
    assert "revision 3 is lower than 9" in replayed.reason
    assert caplog.records == [], "another's policy is nothing to warn of"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "moved", "folder"])
def test_a_damaged_stored_policy_is_left_out_and_told(
    write: Write, recipient: Recipient, key: PrivateKey, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store = PolicyStore(tmp_path, recipient)
    store.save("cohort", write(7))
    (path,) = tmp_path.iterdir()
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
        path.rename(tmp_path / path.name.replace("cohort.presses", "device.press-7"))
    else:
        path.unlink()
        path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert store.load([key.public_key()]) == {}
    assert len(caplog.records) == 1
    assert "stored policy" in caplog.text


_STORING_LOOP = """
import sys
from pathlib import Path
from edgeexit.agent.policy_store import PolicyStore, Recipient
recipient = Recipient(fleet="plant", device="press-7", cohort="presses", bundle=sys.argv[3], exits=3, classes=4)
store = PolicyStore(Path(sys.argv[1]), recipient)
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
            [sys.executable, "-c", _STORING_LOOP, str(state), str(envelopes), recipient.bundle],
            stdout=subprocess.PIPE,
            text=True,
        ) as loop:
            assert loop.stdout is not None
            first = loop.stdout.readline()
            time.sleep(0.02 + 0.007 * turn)
            loop.send_signal(signal.SIGKILL)
            last = int((first + loop.stdout.read()).split("\n")[-2])
        found = PolicyStore(state, recipient).load([key.public_key()])
        assert found["cohort"].revision in {last, (last + 1) % count}
        assert len(list(state.iterdir())) == 1, "what a crash left is tidied up"
