"""Tell one device to do something now, over a connection of its own that ends behind it."""

import secrets
from typing import Final

from edgeexit.errors import EdgeExitError
from edgeexit.wire import BrokerConfig, BrokerSession, Command, DeviceAddress, check_name, down_topic, encode

_EXPIRY_S: Final = 60
"""A device that comes back later than that has better things to do."""


class BrokerError(EdgeExitError):
    """The broker cannot be reached, or refuses what it is given."""


def send_command(broker: BrokerConfig, address: DeviceAddress, command: Command, *, wait_s: float = 5.0) -> None:
    """Hand a command for a device to the broker, which keeps it for 60 s where the device is away for a moment.

    Raises MessageError (names), ConfigError (the broker's URL), BrokerError: not reachable within `wait_s`, or refused.
    """
    for what, name in zip(DeviceAddress._fields, address, strict=True):
        check_name(what, name)
    refused: list[str] = []
    session = BrokerSession(
        broker,
        client_id=f"edgeexit-command-{secrets.token_hex(4)}",
        subscriptions=(),
        on_message=lambda _: None,
        session_expiry_s=0,
        on_refused=refused.append,
    )
    topic = down_topic(address, "command")
    session.start()
    is_sent = session.wait_connected(wait_s) and session.publish(topic, encode(command), expiry_s=_EXPIRY_S)
    session.stop()
    if not is_sent:
        raise BrokerError(f"broker '{broker.url}' is not reachable within {wait_s:g} s: {session.trouble}")
    if refused:
        raise BrokerError(f"the broker refuses a message on '{topic}'; its ACL must let this client write there")
