"""A connection of psycopg on which a server that stops answering is an error after some seconds.

It also takes a `BinaryArray` as a parameter.

The options of TCP notice a server that cannot be reached. They do not notice a frozen one, or a proxy that accepts
everything and forwards nothing.
"""

import time
from collections.abc import Generator
from typing import Any, Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from edgeexit_calibration.store.binary_array import BinaryArray

MAX_WAIT_S: Final = 12.0
_INTERVAL_S: Final = 0.1


class LimitedConnection(psycopg.Connection[Any]):
    """A connection whose statements wait at most `max_wait_s` for the server; then the connection is closed.

    Attributes:
        max_wait_s: longer than the server's `statement_timeout`; None: no limit.

    """

    max_wait_s: float | None = MAX_WAIT_S

    def wait(self, gen: Any, interval: float = _INTERVAL_S, timeout: float | None = None) -> Any:
        """Run a generator of psycopg, which yields whenever it waits for the server."""
        if self.max_wait_s is None or timeout is not None:
            return super().wait(gen, interval)
        return super().wait(self._limited(gen, self.max_wait_s), interval)

    def _limited(self, steps: Generator[Any, Any, Any], limit_s: float) -> Generator[Any, Any, Any]:
        deadline = time.monotonic() + limit_s
        try:
            awaited = next(steps)
            while True:
                ready = yield awaited
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"connection lost: the server did not answer for {limit_s:g} s")
                awaited = steps.send(ready)
        except StopIteration as end:
            return end.value


class _BinaryArrayDumper(Dumper):
    """Leaves the type to the cast in the statement."""

    format = Format.BINARY

    def dump(self, obj: BinaryArray) -> bytes:
        """Return the encoded array."""
        return obj.data


psycopg.adapters.register_dumper(BinaryArray, _BinaryArrayDumper)
