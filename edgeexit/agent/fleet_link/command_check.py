"""Decides whether a received command is executed: signed, for this start of this device, new, and not too frequent."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from edgeexit.agent.policy.check import Recipient
from edgeexit.errors import MessageError
from edgeexit.key_set import TrustedKeys
from edgeexit.wire import COMMAND_TYPE, Command, decode

_MIN_INTERVAL_S: Final[Mapping[str, float]] = {"report": 1.0, "profile": 600.0}
"""Minimum time between two executed commands of an action: a profile occupies the processor for seconds."""
_REMEMBERED: Final = 256
"""Ids of executed commands that are remembered; the interval between commands bounds how fast they change."""


class CommandCheck:
    """Checks the commands for one start of an agent. Only one thread may call `accept`.

    Args:
        recipient: this device.
        start: the random name of this start.
        clock: returns monotonic seconds.

    """

    def __init__(
        self,
        recipient: Recipient,
        *,
        start: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recipient = recipient
        self._start = start
        self._clock = clock
        self._executed: deque[str] = deque(maxlen=_REMEMBERED)
        self._last: dict[str, float] = {}

    def accept(self, envelope: bytes, keys: TrustedKeys) -> Command:
        """Return the command in an envelope if it is to be executed now.

        Args:
            envelope: the received message.
            keys: the keys that are trusted now.

        Raises SignatureError for an envelope that no key for commands signed, and MessageError for a command that is
        for another device or start, was executed before, or follows the last one of its action too soon.
        """
        command = decode(keys.verify(envelope, payload_type=COMMAND_TYPE, role="command"), Command)
        for what, own in (
            ("fleet", self._recipient.fleet),
            ("device", self._recipient.device),
            ("start", self._start),
        ):
            if getattr(command, what) != own:
                raise MessageError(f"command is for {what} '{getattr(command, what)}', this {what} is '{own}'")
        if command.id in self._executed:
            raise MessageError(f"command {command.id} was executed before")
        now, interval_s = self._clock(), _MIN_INTERVAL_S[command.action]
        if command.action in self._last and now - self._last[command.action] < interval_s:
            raise MessageError(f"command '{command.action}' is executed at most once in {interval_s:g} s")
        self._executed.append(command.id)
        self._last[command.action] = now
        return command
