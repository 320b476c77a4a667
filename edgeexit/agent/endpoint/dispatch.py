"""Runs the inferences of requests: short ones in the endpoint's own thread, others in the scheduler's.

Handing a request to another thread and its result back costs more than the inference of a small model. So requests that
have arrived together run as one batch in the endpoint's thread, as long as that takes a few milliseconds at most.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from edgeexit.errors import OverloadedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from edgeexit.agent.agent import Agent
    from edgeexit.agent.endpoint.statistics import ModelStatistics
    from edgeexit.agent.policy.active_policy import ActivePolicy
    from edgeexit.datasets import Inputs
    from edgeexit.runtime import Inference

_WEIGHT: Final = 0.05
"""Weight of the last batch in the average of durations."""
_MAX_RATIO: Final = 50.0
_RECOVERY: Final = 0.99
_MS_PER_S: Final = 1e3


class InferJob:
    """One inference of a client.

    Args:
        inputs: input name -> array; the arrays are not modified until the job is done.
        id: name of the inference; None: it has none.
        done: called in the endpoint's loop with the policy and the result, or the error. Not called after `cancel`.

    """

    __slots__ = ("cancelled", "done", "elements", "future", "id", "inputs", "samples")

    def __init__(
        self,
        inputs: Inputs,
        id: str | None,  # noqa: A002 - the protocol calls it id
        done: Callable[[ActivePolicy | None, Inference | BaseException], None],
    ) -> None:
        self.inputs = inputs
        self.id = id
        self.done = done
        self.samples = self.elements = 0
        for array in inputs.values():
            self.samples = max(self.samples, array.shape[0])
            self.elements += array.size
        self.cancelled = False
        self.future: Future[Inference] | None = None


class InlineRule:
    """Decides which inferences are short enough for the endpoint's own thread.

    The expected duration grows in proportion to the elements of the inputs, and with the durations of earlier batches.

    Args:
        limit_ms: maximum expected duration; 0: none is short enough.
        golden_ms: duration of one golden sample at full depth.
        golden_elements: elements of its inputs.

    """

    def __init__(self, *, limit_ms: float, golden_ms: float, golden_elements: int) -> None:
        self._limit_ms = limit_ms
        self._golden_elements = golden_elements
        self._ms_per_element = golden_ms / golden_elements
        self._slowness = 1.0
        """Average of the actual duration, relative to that of the golden sample; at least 1."""
        self.max_elements = 0
        """Maximum elements of the inputs of one batch."""
        self._update(1.0)

    def accepts(self, elements: int) -> bool:
        """Return True if an inference with inputs of so many elements may run in the endpoint's thread."""
        if elements <= self.max_elements:
            return True
        self._update(self._slowness * _RECOVERY)  # batches may have become faster
        return False

    def observe(self, elements: int, duration_ms: float) -> None:
        """Note the duration of a batch."""
        expected_ms = self._ms_per_element * max(elements, self._golden_elements)
        ratio = min(duration_ms / expected_ms, _MAX_RATIO)  # the process may have waited for a processor
        self._update(self._slowness + _WEIGHT * (ratio - self._slowness))

    def _update(self, slowness: float) -> None:
        self._slowness = max(1.0, slowness)
        ms_per_element = self._ms_per_element * self._slowness
        fits = ms_per_element * self._golden_elements <= self._limit_ms
        self.max_elements = int(self._limit_ms / ms_per_element) if fits else 0


class Dispatcher:
    """Runs jobs; only the endpoint's loop uses it.

    Args:
        agent: an open agent.
        loop: the endpoint's loop.
        rule: decides which jobs run in the loop's thread.
        max_waiting: maximum samples that wait for the loop's thread.
        statistics: where batches are counted; a request that the scheduler runs counts as one.

    """

    def __init__(
        self,
        agent: Agent,
        loop: asyncio.AbstractEventLoop,
        rule: InlineRule,
        *,
        max_waiting: int,
        statistics: ModelStatistics,
    ) -> None:
        self._agent = agent
        self._loop = loop
        self._rule = rule
        self._max_waiting = max_waiting
        self._group: deque[InferJob] = deque()
        self._group_samples = 0
        self._in_scheduler = 0
        self._statistics = statistics
        self._completed: deque[tuple[InferJob, ActivePolicy, Future[Inference]]] = deque()
        self._wakes_loop = False

    def submit(self, job: InferJob) -> None:
        """Start a job. Raises the errors of `Agent.submit`."""
        if self._in_scheduler or not self._rule.accepts(job.elements):
            self._submit_to_scheduler(job)
            return
        if self._group and self._group_samples + job.samples > self._max_waiting:
            raise OverloadedError(
                f"samples in progress: {self._group_samples}; {job.samples} more would exceed max_waiting = "
                f"{self._max_waiting}; try again later"
            )
        if not self._group:
            self._loop.call_soon(self._run_group)  # after the other connections that have data now
        self._group.append(job)
        self._group_samples += job.samples

    def cancel(self, job: InferJob) -> None:
        """Cancel a job, unless it has started."""
        job.cancelled = True
        if job.future is not None:
            job.future.cancel()

    def _run_group(self) -> None:
        """Run waiting jobs as one batch, as many as are short enough together."""
        jobs: list[InferJob] = []
        elements = 0
        while self._group and (not jobs or elements + self._group[0].elements <= self._rule.max_elements):
            job = self._group.popleft()
            self._group_samples -= job.samples
            if not job.cancelled:
                jobs.append(job)
                elements += job.elements
        if self._group:
            self._loop.call_soon(self._run_group)
        if not jobs:
            return
        self._statistics.executions += 1
        started = time.perf_counter()
        active: ActivePolicy | None = None
        results: Sequence[Inference | Exception]
        try:
            active, results = self._agent.infer_together([(job.inputs, job.id) for job in jobs])
        except Exception as error:  # noqa: BLE001 - every client gets a response
            results = [error] * len(jobs)
        self._rule.observe(elements, (time.perf_counter() - started) * _MS_PER_S)
        for job, result in zip(jobs, results, strict=True):
            job.done(active, result)

    def _submit_to_scheduler(self, job: InferJob) -> None:
        active, job.future = self._agent.submit(job.inputs, id=job.id)
        self._in_scheduler += 1
        self._statistics.executions += 1

        def complete(future: Future[Inference]) -> None:
            self._completed.append((job, active, future))
            if not self._wakes_loop:  # one wake-up for all results of a batch
                self._wakes_loop = True
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._deliver)

        job.future.add_done_callback(complete)

    def _deliver(self) -> None:
        """Pass on the results of the scheduler."""
        self._wakes_loop = False  # before the queue is emptied: a later result wakes the loop again
        while self._completed:
            job, active, future = self._completed.popleft()
            self._in_scheduler -= 1
            if not job.cancelled:
                error = future.exception()
                job.done(active, future.result() if error is None else error)
