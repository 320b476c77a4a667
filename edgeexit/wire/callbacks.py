"""Calls the callbacks of a broker session; their exceptions are logged, and end no thread."""

from collections.abc import Callable, Sequence
from typing import Final

from edgeexit.limited_log import LimitedLog
from edgeexit.wire.session_options import Delivery


class SessionCallbacks:
    """The callbacks of one session; all run in the network thread and must not block.

    Args:
        on_message: receives a message; or a batch of messages, if `takes_batches`.
        on_connect: called at every connect, after the client has sent its subscriptions.
        on_refused: receives the topic of a published message that the broker refuses.
        on_progress: called when a publication is acknowledged, refused or ended.
        repeats: the log of the session.
        takes_batches: True: `on_message` receives all messages that have arrived since the last call, in a list.
        may_receive: returns False while no message is to be read.

    """

    def __init__(
        self,
        on_message: Callable[[Delivery], None] | Callable[[list[Delivery]], None],
        on_connect: Callable[[], None],
        on_refused: Callable[[str], None],
        on_progress: Callable[[], None],
        *,
        repeats: LimitedLog,
        takes_batches: bool = False,
        may_receive: Callable[[], bool] = lambda: True,
    ) -> None:
        self.takes_batches: Final = takes_batches
        self.may_receive = may_receive
        self.repeats = repeats
        self._on_message = on_message
        self._on_connect = on_connect
        self._on_refused = on_refused
        self._on_progress = on_progress

    def message(self, delivery: Delivery) -> None:
        """Deliver a message."""
        self._call(self._on_message, delivery)

    def messages(self, deliveries: Sequence[Delivery]) -> None:
        """Deliver a batch of messages."""
        self._call(self._on_message, deliveries)

    def connected(self) -> None:
        """Report a new connection."""
        self._call(self._on_connect)

    def refused(self, topic: str, reason: str) -> None:
        """Log and report a message that the broker refuses."""
        self.repeats.warning((topic, reason), "the broker refuses a message on '%s': %s", topic, reason)
        self._call(self._on_refused, topic)

    def progress(self) -> None:
        """Report that a publication is acknowledged, refused or ended."""
        self._call(self._on_progress)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - see the module
            name = getattr(function, "__qualname__", repr(function))
            key, message = (name, type(error).__name__), "the callback %s of the broker session failed: %s"
            self.repeats.error(key, message, name, error, exc_info=error)
