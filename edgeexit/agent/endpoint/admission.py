"""Limits the requests in flight, in number and in bytes of their bodies."""

from edgeexit.errors import OverloadedError


class Admission:
    """Admits requests up to the limits. Not thread-safe: only the endpoint's loop uses it.

    Args:
        max_requests: maximum number of requests in flight.
        max_bytes: maximum bytes of all their bodies together; a request alone is admitted whatever its size.

    """

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._bytes = 0
        self._closed = False
        self.requests = 0
        """Number of requests in flight."""

    def close(self) -> None:
        """Admit no more requests."""
        self._closed = True

    def enter(self, size: int) -> None:
        """Admit a request whose body has `size` bytes. Raises OverloadedError if a limit would be exceeded."""
        if self._closed:
            raise OverloadedError("the agent is stopping; try again later")
        if self.requests >= self._max_requests:
            raise OverloadedError(
                f"{self.requests} requests are in flight, which is the limit (max_requests); try again later"
            )
        if self.requests and self._bytes + size > self._max_bytes:
            raise OverloadedError(
                f"the requests in flight have {self._bytes} bytes, and {size} more would exceed the limit of "
                f"{self._max_bytes} bytes; try again later"
            )
        self.requests += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Release a request that was admitted with `size` bytes."""
        self.requests -= 1
        self._bytes -= size
