"""Topic names: parsing inverts building, and invalid names are refused."""

import pytest

from edgeexit.errors import MessageError
from edgeexit.wire import DeviceAddress, check_name, parse_up_topic, policy_topic, up_topic

BUNDLE = "0f" * 32


def test_a_topic_holds_the_device_and_the_kind_of_message():
    address = DeviceAddress("fleet", "s0", "cam-1")
    assert parse_up_topic(up_topic(address, "audit")) == (address, "audit")
    assert policy_topic("fleet", BUNDLE, "cameras") == f"edgeexit/v1/fleet/policy/{BUNDLE}/cameras"


@pytest.mark.parametrize(
    "topic",
    [
        "edgeexit/v1/f/s/d/down/ack",
        "edgeexit/v1/f/s/d/up/gossip",
        "edgeexit/v2/f/s/d/up/state",
        "edgeexit/v1/f/s/d/up",
        "edgeexit/v1/f/s/a b/up/state",
        "edgeexit/v1/f/policy/d/up/state",
    ],
)
def test_a_topic_that_is_not_an_uplink_topic_is_refused(topic):
    with pytest.raises(MessageError):
        parse_up_topic(topic)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "é", "x" * 65])
def test_a_name_that_cannot_be_a_topic_level_is_refused(name):
    with pytest.raises(MessageError, match="device"):
        check_name("device", name)
