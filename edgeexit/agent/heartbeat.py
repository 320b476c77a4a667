"""Whether inference really answers: a sample goes all the way through, again and again.

That a thread is alive says little: a runtime that hangs in a driver, a scheduler that waits for ever and a loop that is
stuck all leave the process standing.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDoneError
from typing import Any

from edgeexit.errors import OverloadedError

_log = logging.getLogger(__name__)


class Heartbeat:
    """Probes in a thread of its own; a context manager.

    Args:
        probe: begins to answer a sample by the way that clients' requests take.
        progress: a number that grows with every answer; a service that is overloaded and answers is alive.
        tell: is told after every beat whether inference answers.
        interval_s: from one beat to the next; an answer has half as long.

    """

    def __init__(
        self,
        probe: Callable[[], Future[Any]],
        *,
        progress: Callable[[], int],
        tell: Callable[[bool], None],
        interval_s: float,
    ) -> None:
        self._probe = probe
        self._progress = progress
        self._tell = tell
        self._interval_s = interval_s
        self._patience_s = interval_s / 2
        self._under_way: Future[Any] | None = None
        self._seen = progress()
        self._alive = True
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="agent-heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, after the beat that is under way."""
        self._stopping.set()
        self._thread.join(self._interval_s)

    def beat(self) -> bool:
        """Return whether a sample is answered in time, or another was since the last beat.

        A probe that hangs is waited for at the next beat, so that they do not pile up.
        """
        before, self._seen = self._seen, self._progress()
        try:
            if self._under_way is None:
                self._under_way = self._probe()
            self._under_way.result(self._patience_s)
        except (OverloadedError, NotDoneError) as error:
            if isinstance(error, OverloadedError):
                self._under_way = None
            return self._progress() > before
        except Exception as error:  # noqa: BLE001 - whatever it is, this was no answer
            self._under_way = None
            _log.warning("a golden sample is not answered: %s", error)
            return False
        self._under_way = None
        return True

    def _work(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            alive = self.beat()
            if alive != self._alive:
                self._alive = alive
                _log.log(
                    logging.INFO if alive else logging.ERROR,
                    "inference answers again" if alive else "inference does not answer",
                )
            self._tell(alive)
            pause_s = self._interval_s if alive else self._patience_s
            self._stopping.wait(max(0.0, started + pause_s - time.monotonic()))
