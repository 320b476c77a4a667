"""Sends a command to one device, over a separate connection that is closed afterwards."""

import secrets
from typing import Final

from edgeexit.errors import EdgeExitError
from edgeexit.wire import (
    BrokerConfig,
    BrokerSession,
    Command,
    DeviceAddress,
    SessionOptions,
    check_name,
    down_topic,
    encode,
)

_EXPIRY_S: Final = 60
"""The broker discards the command if the device does not connect within this time."""


class BrokerError(EdgeExitError):
    """The broker is not reachable, or it refuses a message."""


def send_command(broker: BrokerConfig, address: DeviceAddress, command: Command, *, wait_s: float = 5.0) -> None:
    """Publish a command for a device; if the device is offline, the broker stores the command for up to 60 s.

    Raises MessageError for an invalid name in the address, ConfigError for an invalid broker URL, and BrokerError if
    the broker is not reachable within `wait_s` seconds or refuses the message.
    """
    for field, name in zip(DeviceAddress._fields, address, strict=True):
        check_name(field, name)
    refused: list[str] = []
    session = BrokerSession(
        broker,
        SessionOptions(client_id=f"edgeexit-command-{secrets.token_hex(4)}", session_expiry_s=0),
        on_message=lambda _: None,
        on_refused=refused.append,
    )
    topic = down_topic(address, "command")
    session.start()
    is_sent = session.wait_connected(wait_s) and session.publish(topic, encode(command), expiry_s=_EXPIRY_S)
    session.stop()
    if not is_sent:
        raise BrokerError(f"broker '{broker.url}' is not reachable within {wait_s:g} s: {session.last_error}")
    if refused:
        raise BrokerError(f"the broker refuses a message on '{topic}'; its ACL must let this client write there")
