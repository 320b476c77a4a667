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
"""Maximum number of samples held at a time; above it the oldest are released, labelled or not."""


class LabelTicket:
    """The rows drawn from one inference that has an id; created by `AwaitingLabels.expect`.

    Attributes:
        id: id of the inference.
        batch: number of samples of the inference.
        rows: the drawn rows of the batch.
        labels: label of each drawn row; None until it is known.
        due: monotonic seconds at which the samples are released without waiting further.

    """

    def __init__(self, id: str, *, batch: int, rows: Sequence[int], labels: list[int | None], due: float) -> None:  # noqa: A002 - the protocol calls it id
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
    """Holds audited samples until they have their labels or `window_s` has passed since they were drawn. Thread-safe.

    Args:
        window_s: seconds; with 0 the next call of `release` returns all samples.
        clock: returns monotonic seconds.

    """

    def __init__(self, window_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: dict[str, LabelTicket] = {}
        self._held: deque[_HeldAudit] = deque()
        self._samples = 0

    def expect(self, id: str, *, batch: int, rows: Sequence[int], labels: list[int | None]) -> LabelTicket:  # noqa: A002 - the protocol calls it id
        """Accept labels for the drawn rows of an inference of `batch` samples from now on.

        `labels` holds the label of each row, None if it is not known yet. If an earlier inference has the same id, it
        accepts no more labels.
        """
        ticket = LabelTicket(id, batch=batch, rows=rows, labels=labels, due=self._clock() + self._window_s)
        with self._lock:
            self._tickets[id] = ticket
        return ticket

    def forget(self, ticket: LabelTicket) -> None:
        """Accept no more labels for a ticket whose samples will not be held."""
        with self._lock:
            self._remove(ticket)

    def attach(self, id: str, labels: Sequence[int]) -> bool:  # noqa: A002 - the protocol calls it id
        """Store the true classes [B] of an inference, negative if unknown; return False if none of its samples waits.

        Raises DataError if the number of labels is not the number of samples.
        """
        with self._lock:
            ticket = self._tickets.get(id)
            if ticket is None:
                return False
            if len(labels) != ticket.batch:
                raise DataError(
                    f"the inference with id '{id}' has {ticket.batch} samples, but {len(labels)} labels were passed; "
                    "pass one label per sample"
                )
            for index, row in enumerate(ticket.rows):
                if labels[row] >= 0:
                    ticket.labels[index] = int(labels[row])
            return True

    def hold(
        self, ticket: LabelTicket, revision: int, samples: list[tuple[int, AuditedSample]]
    ) -> list[ReleasedSample]:
        """Hold audited samples, each with its index into `ticket.rows`.

        Returns the oldest samples, which are released if there are too many.
        """
        released: list[ReleasedSample] = []
        with self._lock:
            self._held.append(_HeldAudit(ticket, revision, samples))
            self._samples += len(samples)
            while self._samples > _MAX_SAMPLES:
                released += self._release(self._held.popleft())
        return released

    def release(self, *, everything: bool = False) -> list[ReleasedSample]:
        """Remove and return the samples of each inference that has all its labels or whose time is over.

        With `everything`, remove and return all samples.
        """
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
