"""Commands: who may sign them, for whom they are, and how often they are executed."""

from typing import Any

import pytest

from edgeexit.agent.fleet_link.command_check import CommandCheck
from edgeexit.agent.policy.check import Recipient
from edgeexit.errors import MessageError, SignatureError
from edgeexit.key_set import TrustedKeys
from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import COMMAND_TYPE, HEARTBEAT_TYPE, Command

START = "0123456789abcdef"


class Checked:
    """Commands for one start of a device, and a clock."""

    def __init__(self, recipient: Recipient, key: PrivateKey) -> None:
        self.now = 50.0
        self.key = key
        self.trusted = TrustedKeys.configured("plant", command=[key.public_key()])
        self._check = CommandCheck(recipient, start=START, clock=lambda: self.now)
        self._ids = 0

    def accept(self, *, payload: bytes | None = None, payload_type: str = COMMAND_TYPE, **fields: Any) -> Command:
        if payload is None:
            self._ids += 1
            command = {
                "action": "report", "fleet": "plant", "device": "press-7", "start": START, "id": f"{self._ids:016x}",
            }  # fmt: skip
            payload = _encode({**command, **fields})
        return self._check.accept(sign(payload, payload_type=payload_type, keys=[self.key]), self.trusted)


def _encode(fields: dict[str, Any]) -> bytes:
    import msgspec  # noqa: PLC0415 - only here

    return msgspec.json.encode(fields)


@pytest.fixture
def checked(recipient: Recipient, key: PrivateKey) -> Checked:
    return Checked(recipient, key)


def test_a_signed_command_for_this_start_is_executed_once(checked: Checked) -> None:
    assert checked.accept(id="a" * 16).action == "report"
    checked.now += 100
    with pytest.raises(MessageError, match="command aaaaaaaaaaaaaaaa was executed before"):
        checked.accept(id="a" * 16)
    assert checked.accept().action == "report"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fleet": "foundry"}, "command is for fleet 'foundry', this fleet is 'plant'"),
        ({"device": "press-8"}, "command is for device 'press-8', this device is 'press-7'"),
        ({"start": "f" * 16}, "command is for start 'ffffffffffffffff', this start is '0123456789abcdef'"),
        ({"action": "reboot"}, "Command: Invalid enum value 'reboot'"),
        ({"id": "short"}, "Command: Expected `str` matching regex"),
        ({"extra": 1}, "Command: Object contains unknown field `extra`"),
    ],
)
def test_a_command_that_is_not_for_this_start_of_this_device_is_refused(
    checked: Checked, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(MessageError) as caught:
        checked.accept(**fields)
    assert str(caught.value).startswith(message)


def test_only_keys_for_commands_may_sign(checked: Checked) -> None:
    key = checked.key.public_key()
    for keys in (
        TrustedKeys.configured("plant", policy=[key]),
        TrustedKeys.configured("plant", bundle=[key]),
        TrustedKeys.configured("plant"),
    ):
        checked.trusted = keys
        with pytest.raises(SignatureError, match="wrong signature"):
            checked.accept()
    checked.trusted = TrustedKeys.configured("plant", trusted=[key])
    assert checked.accept().action == "report"
    with pytest.raises(SignatureError, match="payload type"):
        checked.accept(payload_type=HEARTBEAT_TYPE)


def test_profiles_are_measured_at_most_every_ten_minutes_and_reports_sent_every_second(checked: Checked) -> None:
    checked.accept(action="profile")
    checked.accept(action="report")
    checked.now += 599
    with pytest.raises(MessageError, match="'profile' is executed at most once in 600 s"):
        checked.accept(action="profile")
    checked.accept(action="report")
    with pytest.raises(MessageError, match="'report' is executed at most once in 1 s"):
        checked.accept(action="report")
    checked.now += 1
    assert checked.accept(action="profile").action == "profile"


def test_a_refused_command_does_not_delay_the_next_valid_one(checked: Checked) -> None:
    for _ in range(5):
        with pytest.raises(MessageError):
            checked.accept(action="profile", device="press-8")
    assert checked.accept(action="profile").action == "profile"


def test_many_commands_do_not_make_an_old_id_valid_again(checked: Checked) -> None:
    first = checked.accept().id
    for _ in range(255):
        checked.now += 1
        checked.accept()
    checked.now += 1
    with pytest.raises(MessageError, match="was executed before"):
        checked.accept(id=first)
