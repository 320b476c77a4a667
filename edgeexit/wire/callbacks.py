"""Calls the callbacks of a broker session; their exceptions are logged, and end no thread."""

import logging
from collections.abc import Callable
from typing import Final

from edgeexit.limited_log import LimitedLog
from edgeexit.wire.session_options import Delivery

_repeats: Final = LimitedLog(logging.getLogger(__name__))


class SessionCallbacks:
    """The callbacks of one session; all run in the network thread and must not block.

    Args:
        on_message: receives a message.
        on_connect: called at every connect, after the client has sent its subscriptions.
        on_refused: receives the topic of a published message that the broker refuses.
        on_progress: called when a publication is acknowledged, refused or ended.

    """

    def __init__(
        self,
        on_message: Callable[[Delivery], None],
        on_connect: Callable[[], None],
        on_refused: Callable[[str], None],
        on_progress: Callable[[], None],
    ) -> None:
        self._on_message = on_message
        self._on_connect = on_connect
        self._on_refused = on_refused
        self._on_progress = on_progress

    def message(self, delivery: Delivery) -> None:
        """Deliver a message."""
        _call(self._on_message, delivery)

    def connected(self) -> None:
        """Report a new connection."""
        _call(self._on_connect)

    def refused(self, topic: str) -> None:
        """Report a message that the broker refuses."""
        _call(self._on_refused, topic)

    def progress(self) -> None:
        """Report that a publication is acknowledged, refused or ended."""
        _call(self._on_progress)


def _call(function: Callable[..., None], *arguments: object) -> None:
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001 - see the module
        name = getattr(function, "__qualname__", repr(function))
        key, message = (name, type(error).__name__), "the callback %s of the broker session failed: %s"
        _repeats.error(key, message, name, error, exc_info=error)
