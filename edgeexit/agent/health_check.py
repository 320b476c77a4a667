"""Checks periodically that inference works, by running a golden sample through every stage.

It is not enough to check that a thread is alive: threads stay alive while the runtime hangs in a driver, or while the
scheduler waits forever.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from edgeexit.errors import OverloadedError
from edgeexit.limited_log import LimitedLog

_log = logging.getLogger(__name__)


class HealthCheck:
    """Runs one check per interval in its own thread; a context manager.

    Args:
        probe: starts the inference of one sample on the path that clients' requests take.
        completed_batches: returns a number that grows with every inference; an overloaded agent that still completes
            inferences is healthy.
        on_check: called after every check, with True if inference works.
        interval_s: seconds between checks; a probe times out after half of it.

    """

    def __init__(
        self,
        probe: Callable[[], Future[Any]],
        *,
        completed_batches: Callable[[], int],
        on_check: Callable[[bool], None],
        interval_s: float,
    ) -> None:
        self._probe = probe
        self._completed_batches = completed_batches
        self._on_check = on_check
        self._interval_s = interval_s
        self._timeout_s = interval_s / 2
        self._pending: Future[Any] | None = None
        self._last_completed = completed_batches()
        self._healthy = True
        self._repeats = LimitedLog(_log)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent-health-check", daemon=True)

    def __enter__(self) -> "HealthCheck":
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread after the current check."""
        self._stopping.set()
        self._thread.join(self._interval_s)

    def check(self) -> bool:
        """Return True if the probe completes in time, or another inference has completed since the last check.

        While a probe hangs, later checks wait for it and start no other, so that probes do not accumulate.
        """
        before, self._last_completed = self._last_completed, self._completed_batches()
        try:
            if self._pending is None:
                self._pending = self._probe()
            self._pending.result(self._timeout_s)
        except (OverloadedError, FutureTimeoutError) as error:
            if isinstance(error, OverloadedError):
                self._pending = None
            return self._completed_batches() > before
        except Exception as error:  # noqa: BLE001 - a probe that fails for any reason is a failed check
            self._pending = None
            self._repeats.warning(type(error).__name__, "inference of a golden sample failed: %s", error)
            return False
        self._pending = None
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            healthy = self.check()
            if healthy != self._healthy:
                self._healthy = healthy
                if healthy:
                    self._repeats.info("works", "inference works again")
                else:
                    self._repeats.error("hangs", "inference does not complete")
            self._repeats.flush()
            self._on_check(healthy)
            pause_s = self._interval_s if healthy else self._timeout_s
            self._stopping.wait(max(0.0, started + pause_s - time.monotonic()))
        self._repeats.close()
