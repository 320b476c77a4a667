"""Limits the bodies that are held in memory, by the bytes received, and the requests that run, in number."""

import time
from collections.abc import Callable
from typing import Final, Protocol

from edgeexit.errors import OverloadedError

_MIN_AGE_S: Final = 1.0


class Upload(Protocol):
    """A request whose body is held, in part or complete."""

    def abandon(self) -> None:
        """Refuse the request and drop its body, to make room for others."""


class _Held:
    """What one request holds."""

    __slots__ = ("complete", "since", "size")

    def __init__(self, since: float) -> None:
        self.size = 0
        self.since = since
        self.complete = False


class Admission:
    """Admits requests up to the limits. Not thread-safe: only the endpoint's loop uses it.

    A body counts by its bytes that have arrived, so a client that announces a large body and sends nothing takes no
    room. If the bodies exceed the limit, the incomplete one that has been arriving for longest is abandoned first.

    Args:
        max_requests: maximum number of complete requests in flight.
        max_bytes: maximum bytes of all bodies together; a request alone is admitted whatever its size.
        min_age_s: an incomplete body is not abandoned before it has been arriving for this long.
        clock: returns monotonic seconds.

    """

    def __init__(
        self,
        *,
        max_requests: int,
        max_bytes: int,
        min_age_s: float = _MIN_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._min_age_s = min_age_s
        self._clock = clock
        self._held: dict[Upload, _Held] = {}
        """Requests that hold bytes, the oldest first."""
        self._closed = False
        self.bytes = 0
        """Bytes of all bodies."""
        self.requests = 0
        """Number of complete requests in flight."""

    def close(self) -> None:
        """Admit no more requests."""
        self._closed = True

    def receive(self, upload: Upload, size: int) -> None:
        """Count `size` more bytes of a body. Raises OverloadedError if there is no room for them."""
        held = self._held.get(upload)
        if held is None:
            held = self._held[upload] = _Held(self._clock())
        while self.bytes + size > self._max_bytes and len(self._held) > 1:
            if (slow := self._slowest(upload)) is None:
                raise OverloadedError(
                    f"the requests in flight have {self.bytes} bytes, and {size} more would exceed the limit of "
                    f"{self._max_bytes} bytes; try again later"
                )
            self.release(slow)
            slow.abandon()
        held.size += size
        self.bytes += size

    def start(self, upload: Upload) -> None:
        """Admit a request whose body is complete. Raises OverloadedError if a limit would be exceeded."""
        if self._closed:
            raise OverloadedError("the agent is stopping; try again later")
        if self.requests >= self._max_requests:
            raise OverloadedError(
                f"requests in flight: {self.requests}, which is the limit (max_requests); try again later"
            )
        held = self._held.get(upload)
        if held is None:
            held = self._held[upload] = _Held(0.0)
        held.complete = True
        self.requests += 1

    def release(self, upload: Upload) -> None:
        """Stop counting a request; further calls have no effect."""
        held = self._held.pop(upload, None)
        if held is not None:
            self.bytes -= held.size
            self.requests -= held.complete

    def _slowest(self, newcomer: Upload) -> Upload | None:
        """Return the request whose body is incomplete for longest, if it is old enough."""
        oldest = self._clock() - self._min_age_s
        for upload, held in self._held.items():
            if not held.complete and held.size and upload is not newcomer and held.since <= oldest:
                return upload
        return None
