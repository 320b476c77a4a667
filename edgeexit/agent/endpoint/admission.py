"""How much may be in flight at a time, in requests and in bytes of their bodies."""

from edgeexit.errors import OverloadedError


class Admission:
    """Lets requests in while there is room; used by one thread.

    Args:
        max_requests: most requests at a time.
        max_bytes: most bytes of their bodies, all together.

    """

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._bytes = 0
        self._closed = False
        self.requests = 0
        """In flight now."""

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    def enter(self, size: int) -> None:
        """Let in a request whose body has `size` bytes. Raises OverloadedError where there is no room."""
        if self._closed:
            raise OverloadedError("the agent stops; try again later")
        if self.requests >= self._max_requests:
            raise OverloadedError(f"{self.requests} requests are in flight, which is the limit; try again later")
        if self.requests and self._bytes + size > self._max_bytes:
            raise OverloadedError(
                f"requests of {self._bytes} bytes are in flight and {size} more would pass the limit of "
                f"{self._max_bytes}; try again later"
            )
        self.requests += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Let out a request that came in with `size`."""
        self.requests -= 1
        self._bytes -= size
