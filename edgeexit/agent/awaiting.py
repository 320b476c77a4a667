"""Audited samples whose true class may still come: held for a while, bounded, and let go with it or without."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from edgeexit.errors import DataError
from edgeexit.wire import AuditedSample

_MAX_SAMPLES: Final = 4096
"""Held at a time; past it the oldest go out without a label."""


class Ticket:
    """The samples drawn from one inference with an id, and their labels so far; made by `AwaitingLabels.expect`."""

    def __init__(self, identity: str, *, batch: int, rows: Sequence[int], labels: list[int | None], due: float) -> None:
        self.identity = identity
        self.batch = batch
        self.rows = rows
        self.labels = labels
        self.due = due


class _HeldAudit(NamedTuple):
    ticket: Ticket
    revision: int
    samples: list[tuple[int, AuditedSample]]
    """Place among the ticket's rows, and what was audited."""


Released = tuple[int, AuditedSample]
"""Policy revision and sample."""


class AwaitingLabels:
    """Holds audited samples for `window_s` after their inference; may be called from several threads.

    Args:
        window_s: 0 holds them until they are next asked for.
        clock: gives monotonic seconds.

    """

    def __init__(self, window_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._held: deque[_HeldAudit] = deque()
        self._samples = 0

    def expect(self, identity: str, *, batch: int, rows: Sequence[int], labels: list[int | None]) -> Ticket:
        """Take labels for these rows of an inference of `batch` samples from now on; the newest of an id counts."""
        ticket = Ticket(identity, batch=batch, rows=rows, labels=labels, due=self._clock() + self._window_s)
        with self._lock:
            self._tickets[identity] = ticket
        return ticket

    def forget(self, ticket: Ticket) -> None:
        """Take no labels any more: nothing will be held."""
        with self._lock:
            self._drop(ticket)

    def attach(self, identity: str, labels: Sequence[int]) -> bool:
        """Note the true classes of an inference, negative: not known; return whether a sample of it waits for them.

        Raises DataError for another number of labels than the inference has samples.
        """
        with self._lock:
            ticket = self._tickets.get(identity)
            if ticket is None:
                return False
            if len(labels) != ticket.batch:
                raise DataError(
                    f"id '{identity}' is an inference of {ticket.batch} samples, and {len(labels)} labels are given"
                )
            for place, row in enumerate(ticket.rows):
                if labels[row] >= 0:
                    ticket.labels[place] = int(labels[row])
            return True

    def hold(self, ticket: Ticket, revision: int, samples: list[tuple[int, AuditedSample]]) -> list[Released]:
        """Hold what was audited; return what has to go for it."""
        released: list[Released] = []
        with self._lock:
            self._held.append(_HeldAudit(ticket, revision, samples))
            self._samples += len(samples)
            while self._samples > _MAX_SAMPLES:
                released += self._release(self._held.popleft())
        return released

    def release(self, *, everything: bool = False) -> list[Released]:
        """Return the samples that have all their labels or whose time is over, or everything."""
        now, released = self._clock(), []
        kept: deque[_HeldAudit] = deque()
        with self._lock:
            for held in self._held:
                if everything or now >= held.ticket.due or None not in held.ticket.labels:
                    released += self._release(held)
                else:
                    kept.append(held)
            self._held = kept
        return released

    def _release(self, held: _HeldAudit) -> list[Released]:
        self._samples -= len(held.samples)
        self._drop(held.ticket)
        return [
            (held.revision, msgspec.structs.replace(sample, label=held.ticket.labels[place]))
            for place, sample in held.samples
        ]

    def _drop(self, ticket: Ticket) -> None:
        if self._tickets.get(ticket.identity) is ticket:
            del self._tickets[ticket.identity]
