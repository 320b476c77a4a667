"""Heartbeats: a device notices by its uptime alone that a broker withholds messages."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent.fleet_link.freshness import Freshness
from edgeexit.agent.policy.check import Recipient
from edgeexit.errors import MessageError, SignatureError
from edgeexit.key_set import TrustedKeys
from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import COMMAND_TYPE, HEARTBEAT_TYPE, Confirmation, Heartbeat, encode

WITHIN_S = 3600.0


class Device:
    """A device whose uptime the test sets."""

    def __init__(self, folder: Path, recipient: Recipient, key: PrivateKey) -> None:
        self.now = 0.0
        self.key = key
        self.trusted = TrustedKeys.configured("plant", policy=[key.public_key()])
        self.received = 4
        self._recipient = recipient
        self.freshness = Freshness(folder, recipient, within_s=WITHIN_S, clock=lambda: self.now)

    def envelope(self, counter: int, *, revision: int = 4, payload_type: str = HEARTBEAT_TYPE, **fields: Any) -> bytes:
        own = {name: getattr(self._recipient, name) for name in ("fleet", "bundle", "cohort")}
        heartbeat = Heartbeat(**{**own, "revision": revision, "counter": counter, **fields})
        return sign(encode(heartbeat), payload_type=payload_type, keys=[self.key])

    def beat(self, counter: int, *, revision: int = 4) -> None:
        self.freshness.receive(self.envelope(counter, revision=revision), self.trusted)

    def after(self, seconds: float) -> bool:
        """Let time pass; return whether the device is unconfirmed."""
        self.now += seconds
        self.freshness.check(self.received, can_verify=bool(self.trusted.keys("policy")))
        return self.freshness.unconfirmed


@pytest.fixture
def start(tmp_path: Path, recipient: Recipient, key: PrivateKey) -> Callable[[], Device]:
    """Return a function that starts the device."""
    return lambda: Device(tmp_path, recipient, key)


def test_a_device_is_unconfirmed_without_a_newer_heartbeat_and_confirmed_by_the_next_one(
    start: Callable[[], Device], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    device = start()
    device.beat(1)
    assert not device.after(WITHIN_S)
    device.beat(1)  # the broker repeats the retained one
    assert device.after(1)
    assert device.after(10 * WITHIN_S)
    assert caplog.text.count("unconfirmed: for 3600 s, no newer heartbeat") == 1
    device.beat(2)
    assert not device.after(1)
    assert "confirmed again by heartbeat 2" in caplog.text
    assert device.freshness.confirmed == Confirmation(counter=2, revision=4)


def test_a_device_that_never_got_a_heartbeat_is_unconfirmed_too_and_logs_it_only_if_it_could_verify_one(
    start: Callable[[], Device], caplog: pytest.LogCaptureFixture
) -> None:
    device = start()
    device.trusted = TrustedKeys.configured("plant")
    assert not device.after(WITHIN_S)
    assert device.after(1)
    assert caplog.records == []
    device = start()
    assert device.after(WITHIN_S + 1)
    assert len(caplog.records) == 1


def test_a_device_that_does_not_get_the_policy_that_heartbeats_name_is_unconfirmed(
    start: Callable[[], Device], caplog: pytest.LogCaptureFixture
) -> None:
    device = start()
    for counter in range(1, 13):
        device.beat(counter, revision=5)
        assert not device.after(WITHIN_S / 12)
    device.beat(13, revision=5)
    assert device.after(1)
    assert "for 3600 s, revision 5 that the calibrator names did not arrive" in caplog.text
    device.received = 5
    assert not device.after(1)


def test_the_counter_survives_a_clean_stop_and_is_stored_at_most_hourly(
    start: Callable[[], Device], tmp_path: Path
) -> None:
    device = start()
    for counter in range(50):
        device.beat(counter)
        device.after(60)
    assert list(tmp_path.iterdir()) == []
    device.after(3600)
    assert start().freshness.confirmed == Confirmation(counter=49, revision=4)
    device.beat(60)
    device.freshness.close()
    again = start()
    again.beat(60)
    assert again.freshness.confirmed == Confirmation(counter=60, revision=4)
    assert again.after(WITHIN_S + 1), "the retained heartbeat of the last start is not a newer one"
    again.beat(61)
    assert not again.after(1)


def test_a_flipped_bit_does_not_make_all_heartbeats_look_old(start: Callable[[], Device], tmp_path: Path) -> None:
    device = start()
    device.beat(60)
    device.freshness.close()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert start().freshness.confirmed in {None, Confirmation(counter=60, revision=4)}


def test_a_disk_that_fails_changes_nothing_in_memory(
    start: Callable[[], Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = start()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    device.beat(5)
    assert not device.after(3600)
    device.freshness.close()
    assert device.freshness.confirmed == Confirmation(counter=5, revision=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fleet": "foundry"}, "heartbeat is for fleet 'foundry', this fleet is 'plant'"),
        ({"cohort": "ovens"}, "heartbeat is for cohort 'ovens', this cohort is 'presses'"),
        ({"bundle": "f" * 64}, "heartbeat is for bundle 'ffff"),
        ({"payload_type": COMMAND_TYPE}, "envelope has payload type 'application/vnd.edgeexit.command"),
    ],
)
def test_heartbeats_of_others_are_refused(start: Callable[[], Device], changes: dict[str, Any], message: str) -> None:
    device = start()
    with pytest.raises((MessageError, SignatureError), match=message):
        device.freshness.receive(device.envelope(9, **changes), device.trusted)
    assert device.freshness.confirmed is None


def test_a_heartbeat_of_an_unknown_key_or_of_a_key_for_commands_is_refused(start: Callable[[], Device]) -> None:
    device = start()
    for keys in (
        TrustedKeys.configured("plant", policy=[PrivateKey.generate().public_key()]),
        TrustedKeys.configured("plant", command=[device.key.public_key()]),
    ):
        with pytest.raises(SignatureError, match="wrong signature"):
            device.freshness.receive(device.envelope(9), keys)
