"""Tell one device to do something now, over a connection of its own that ends behind it."""

import logging
import secrets
from typing import Final

from edgeexit.errors import EdgeExitError
from edgeexit.messages import Command, DeviceAddress, check_name, down_topic, encode
from edgeexit.mqtt import BrokerConfig, BrokerSession

_EXPIRY_S: Final = 60
"""A device that comes back later than that has better things to do."""


class BrokerError(EdgeExitError):
    """The broker cannot be reached, or refuses what it is given."""


class _Reason(logging.Handler):
    """Keeps the session's last warning, which says why there is no connection, for the one line of the error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "the broker does not answer"

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage().removesuffix("; retrying")


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
    log, reason = logging.getLogger(BrokerSession.__module__), _Reason()
    log.addHandler(reason)
    try:
        session.start()
        is_sent = session.wait_connected(wait_s) and session.publish(topic, encode(command), expiry_s=_EXPIRY_S)
        session.stop()
    finally:
        log.removeHandler(reason)
    if not is_sent:
        raise BrokerError(f"nothing was sent to '{broker.url}' within {wait_s:g} s: {reason.text}")
    if refused:
        raise BrokerError(f"the broker refuses a message on '{topic}'; its ACL must let this client write there")
