"""Signs a command for the present start of one device and sends it, over a connection of its own."""

import queue
import secrets
import time
from collections.abc import Sequence
from typing import Final, Literal

from edgeexit.errors import EdgeExitError, MessageError
from edgeexit.signing import PrivateKey, sign
from edgeexit.wire import (
    COMMAND_TYPE,
    BrokerConfig,
    BrokerSession,
    Command,
    Delivery,
    DeviceAddress,
    SessionOptions,
    State,
    check_name,
    decode,
    down_topic,
    encode,
    up_topic,
)

_EXPIRY_S: Final = 60
"""The broker discards the command if it cannot deliver it within this time."""


class BrokerError(EdgeExitError):
    """The broker is not reachable, or it refuses a message."""


class CommandError(EdgeExitError):
    """A device cannot be given a command: it is unknown or offline."""


def send_command(
    broker: BrokerConfig,
    address: DeviceAddress,
    action: Literal["report", "profile"],
    *,
    keys: Sequence[PrivateKey],
    wait_s: float = 5.0,
) -> Command:
    """Sign a command for the start that the retained state of a device names, send it, and wait for the PUBACK.

    A command is for one start of the agent, so it is never executed after a restart. The broker must let this client
    read `up/state` and write `down/command` of the device.

    Args:
        broker: where the broker is.
        address: the device.
        action: what the device does.
        keys: sign the command; the device must trust one of them for commands.
        wait_s: maximum time for the connection, for the state and for the acknowledgement, each.

    Raises MessageError for an invalid name in the address, ConfigError for an invalid broker URL, CommandError if the
    device is unknown or offline, and BrokerError if the broker is not reachable or refuses the message.

    """
    for field, name in zip(DeviceAddress._fields, address, strict=True):
        check_name(field, name)
    state_topic, topic = up_topic(address, "state"), down_topic(address, "command")
    states: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    session = BrokerSession(
        broker,
        SessionOptions(
            client_id=f"edgeexit-command-{secrets.token_hex(4)}", subscriptions=(state_topic,), session_expiry_s=0
        ),
        on_message=states.put,
    )
    session.start()
    try:
        if not session.wait_connected(wait_s):
            raise BrokerError(f"broker '{broker.url}' is not reachable within {wait_s:g} s: {session.last_error}")
        start = _running_start(states, address, state_topic, wait_s)
        command = Command(
            action=action, fleet=address.fleet, device=address.device, start=start, id=secrets.token_hex(8)
        )
        envelope = sign(encode(command), payload_type=COMMAND_TYPE, keys=keys)
        publication = session.publish(topic, envelope, expiry_s=_EXPIRY_S)
        if publication is None or not publication.wait(wait_s) or publication.ended:
            raise BrokerError(
                f"broker '{broker.url}' did not acknowledge the command within {wait_s:g} s: {session.last_error}"
            )
        if publication.refused is not None:
            raise BrokerError(
                f"the broker refuses a message on '{topic}' ({publication.refused}); its ACL must let this client "
                "write there"
            )
    finally:
        session.stop()
    return command


def _running_start(states: "queue.SimpleQueue[Delivery]", address: DeviceAddress, topic: str, wait_s: float) -> str:
    """Return the start of the agent that runs on a device. Raises CommandError if there is none."""
    name = "/".join(address)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            delivery = states.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise CommandError(
                f"device '{name}' is unknown: the broker has no state on '{topic}'; check the name, and that the ACL "
                "lets this client read there"
            ) from None
        try:
            state = decode(delivery.payload, State)
        except MessageError:
            continue  # a newer one may follow
        if not state.online:
            raise CommandError(f"device '{name}' is offline; no command was sent")
        return state.start
