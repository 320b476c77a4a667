"""Holds audited samples for a bounded time, because their true class may arrive later."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from edgeexit.errors import DataError
from edgeexit.wire import AuditedSample

_MAX_SAMPLES: Final = 4096
"""Samples held at a time; above that the oldest are released without a label."""


class LabelTicket:
    """The rows drawn from one inference that has an id, and their labels so far; made by `AwaitingLabels.expect`."""

    def __init__(self, id: str, *, batch: int, rows: Sequence[int], labels: list[int | None], due: float) -> None:  # noqa: A002 - the protocol's name
        self.id = id
        self.batch = batch
        self.rows = rows
        self.labels = labels
        self.due = due


class _HeldAudit(NamedTuple):
    """The audited samples of one inference."""

    ticket: LabelTicket
    revision: int
    samples: list[tuple[int, AuditedSample]]
    """Index into the ticket's rows, and the audited sample."""


ReleasedSample = tuple[int, AuditedSample]
"""Policy revision and audited sample."""


class AwaitingLabels:
    """Holds audited samples for up to `window_s` after their inference. Thread-safe.

    Args:
        window_s: seconds; 0 holds samples until the next call of `release`.
        clock: returns monotonic seconds.

    """

    def __init__(self, window_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: dict[str, LabelTicket] = {}
        self._held: deque[_HeldAudit] = deque()
        self._samples = 0

    def expect(self, id: str, *, batch: int, rows: Sequence[int], labels: list[int | None]) -> LabelTicket:  # noqa: A002 - the protocol's name
        """Accept labels for these rows of an inference of `batch` samples; a newer inference replaces an id."""
        ticket = LabelTicket(id, batch=batch, rows=rows, labels=labels, due=self._clock() + self._window_s)
        with self._lock:
            self._tickets[id] = ticket
        return ticket

    def forget(self, ticket: LabelTicket) -> None:
        """Accept no more labels for a ticket whose samples will not be held."""
        with self._lock:
            self._remove(ticket)

    def attach(self, id: str, labels: Sequence[int]) -> bool:  # noqa: A002 - the protocol's name
        """Store the true classes [B] of an inference, negative if unknown; return False if none of its samples waits.

        Raises DataError if the number of labels is not the number of samples.
        """
        with self._lock:
            ticket = self._tickets.get(id)
            if ticket is None:
                return False
            if len(labels) != ticket.batch:
                raise DataError(f"id '{id}' is an inference of {ticket.batch} samples, but has {len(labels)} labels")
            for index, row in enumerate(ticket.rows):
                if labels[row] >= 0:
                    ticket.labels[index] = int(labels[row])
            return True

    def hold(
        self, ticket: LabelTicket, revision: int, samples: list[tuple[int, AuditedSample]]
    ) -> list[ReleasedSample]:
        """Hold audited samples; return the oldest samples that have to be released to make room."""
        released: list[ReleasedSample] = []
        with self._lock:
            self._held.append(_HeldAudit(ticket, revision, samples))
            self._samples += len(samples)
            while self._samples > _MAX_SAMPLES:
                released += self._release(self._held.popleft())
        return released

    def release(self, *, everything: bool = False) -> list[ReleasedSample]:
        """Remove and return the samples that have all their labels or whose time is over, or all samples."""
        now, released = self._clock(), []
        remaining: deque[_HeldAudit] = deque()
        with self._lock:
            for held in self._held:
                if everything or now >= held.ticket.due or None not in held.ticket.labels:
                    released += self._release(held)
                else:
                    remaining.append(held)
            self._held = remaining
        return released

    def _release(self, held: _HeldAudit) -> list[ReleasedSample]:
        self._samples -= len(held.samples)
        self._remove(held.ticket)
        return [
            (held.revision, msgspec.structs.replace(sample, label=held.ticket.labels[index]))
            for index, sample in held.samples
        ]

    def _remove(self, ticket: LabelTicket) -> None:
        if self._tickets.get(ticket.id) is ticket:
            del self._tickets[ticket.id]
