"""Stored policies are loaded after a restart; after a crash the old or the new policy is stored."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgeexit.agent.policy_check import Recipient, check_policy
from edgeexit.agent.policy_store import PolicyStore
from edgeexit.policies import Scope
from edgeexit.signing import PrivateKey
from edgeexit.wire import Rejection

MakeEnvelope = Callable[..., bytes]


def test_stored_policies_are_verified_when_they_are_loaded(
    make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey, tmp_path: Path
) -> None:
    folder = tmp_path / "made" / "here"
    PolicyStore(folder, recipient).save("cohort", make_envelope(7))
    PolicyStore(folder, recipient).save("device", make_envelope(2, scope=Scope(fleet="plant", device="press-7")))
    found = PolicyStore(folder, recipient).load([key.public_key()])
    assert {slot: document.revision for slot, document in found.items()} == {"cohort": 7, "device": 2}
    assert PolicyStore(folder, recipient).load([]) == {}


@pytest.mark.parametrize(
    "moved_to",
    [{"bundle": "f" * 64}, {"cohort": "ovens"}, {"fleet": "foundry"}],
    ids=["another bundle", "another cohort", "another fleet"],
)
def test_a_device_that_returns_to_a_bundle_or_cohort_continues_from_its_revision_there(
    make_envelope: MakeEnvelope,
    recipient: Recipient,
    key: PrivateKey,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    moved_to: dict[str, str],
) -> None:
    keys = [key.public_key()]
    PolicyStore(tmp_path, recipient).save("cohort", make_envelope(9))
    away = msgspec.structs.replace(recipient, **moved_to)
    assert PolicyStore(tmp_path, away).load(keys) == {}
    scope = Scope(fleet=away.fleet, cohort=away.cohort)
    PolicyStore(tmp_path, away).save("cohort", make_envelope(2, scope=scope, bundle=away.bundle))
    assert PolicyStore(tmp_path, away).load(keys)["cohort"].revision == 2
    back = PolicyStore(tmp_path, recipient).load(keys)
    assert back["cohort"].revision == 9
    replayed = check_policy(make_envelope(3), keys, recipient, back)
    assert isinstance(replayed, Rejection)
    assert "revision 3 is lower than the current revision 9" in replayed.reason
    assert caplog.records == [], "no warning about policies of other bundles, cohorts and fleets"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "moved", "folder"])
def test_a_damaged_stored_policy_is_ignored_with_a_warning(
    make_envelope: MakeEnvelope,
    recipient: Recipient,
    key: PrivateKey,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    store = PolicyStore(tmp_path, recipient)
    store.save("cohort", make_envelope(7))
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
from edgeexit.agent.policy_check import Recipient
from edgeexit.agent.policy_store import PolicyStore
recipient = Recipient(fleet="plant", device="press-7", cohort="presses", bundle=sys.argv[3], exits=3, classes=4)
store = PolicyStore(Path(sys.argv[1]), recipient)
envelopes = [path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())]
while True:
    for number, envelope in enumerate(envelopes):
        store.save("cohort", envelope)
        print(number, flush=True)
"""


def test_a_kill_while_storing_leaves_the_old_or_the_new_policy(
    make_envelope: MakeEnvelope, recipient: Recipient, key: PrivateKey, tmp_path: Path
) -> None:
    state, envelopes = tmp_path / "state", tmp_path / "envelopes"
    envelopes.mkdir()
    count = 5
    for revision in range(count):
        (envelopes / f"{revision}.json").write_bytes(make_envelope(revision))
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
        assert len(list(state.iterdir())) == 1, "temporary files of the crash are removed"
