"""Runs a random fraction of the samples to full depth, in its own thread, after their prediction was returned."""

import logging
import queue
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.agent.awaiting_labels import AwaitingLabels, LabelTicket, ReleasedSample
from edgeexit.agent.labels import Labels
from edgeexit.datasets import Inputs
from edgeexit.limited_log import LimitedLog
from edgeexit.policies import AuditRule, Policy, simulate
from edgeexit.policies.readout import COLUMNS
from edgeexit.runtime import Inference, Runner, differing_fractions
from edgeexit.wire import AuditedSample

_log = logging.getLogger(__name__)

_MAX_QUEUED_BATCHES: Final = 64
_VALUES_PER_MESSAGE: Final = 1024
"""Samples times exits in one message: at most about 100 KB of JSON."""
_MAX_SAMPLES_PER_MESSAGE: Final = 256

Emit = Callable[[int, tuple[AuditedSample, ...]], None]
"""Receives a policy revision and the samples audited under it, in any thread."""


class DrawnSamples(NamedTuple):
    """Samples drawn from one batch; the arrays are copies, because the caller may overwrite its own."""

    rows: list[int]
    inputs: dict[str, npt.NDArray[np.generic]]
    labels: list[int | None]
    ticket: LabelTicket | None
    """Set if the inference has an id, under which labels may arrive later."""


class _AuditJob(NamedTuple):
    """Drawn samples whose predictions have been returned."""

    drawn: DrawnSamples
    exits: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    revision: int
    policy: Policy


class Auditor:
    """Draws samples at random, independently of the input, and runs them to full depth.

    Args:
        runner: the runner that inference uses, too; it is thread-safe.
        fraction: probability with which a sample is drawn; 0: none is, whatever a policy document asks for.
        max_fraction: highest probability that a policy document can ask for.
        exits: number of exits K.
        maps: whether the exits predict maps; then each audited sample has the fractions of its map that differ.
        emit: receives audited samples, per call at most as many as fit into one message.
        feedback_window_s: seconds for which samples with an id are held for later labels; see `AwaitingLabels`.
        random_source: returns numbers in [0, 1).

    """

    def __init__(
        self,
        runner: Runner,
        *,
        fraction: float,
        max_fraction: float = 1.0,
        exits: int,
        maps: bool = False,
        emit: Emit,
        feedback_window_s: float = 0.0,
        random_source: Callable[[], float] | None = None,
    ) -> None:
        self._runner = runner
        self._fraction = fraction
        self._max_fraction = max_fraction
        self._cut: AuditRule | None = None
        """The last rule that asked for more than is allowed."""
        self._has_maps = maps
        self._emit = emit
        self._random = random_source or random.Random().random  # noqa: S311 - sampling, not cryptography
        self._samples_per_message = max(1, min(_MAX_SAMPLES_PER_MESSAGE, _VALUES_PER_MESSAGE // exits))
        self._queue: queue.Queue[_AuditJob | None] = queue.Queue(_MAX_QUEUED_BATCHES)
        self._awaiting = AwaitingLabels(feedback_window_s)
        self._lock = threading.Lock()
        self._audited: dict[int, list[AuditedSample]] = {}
        self._repeats = LimitedLog(_log)
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent-auditor", daemon=True)
        self.skipped = 0
        """Samples that were drawn but not audited, because the queue was full or their run failed."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, timeout_s: float = 2.0) -> None:
        """Audit the queued samples, then emit all audited samples; waits at most 2 * `timeout_s` for the audits."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            self._abandoned.set()
        self._thread.join(timeout_s)
        self._abandoned.set()
        self._collect(self._awaiting.release(everything=True))
        self._emit_rest()
        self._repeats.close()

    def draw(
        self,
        inputs: Inputs,
        samples: int,
        *,
        rule: AuditRule | None = None,
        labels: Labels | None = None,
        id: str | None = None,  # noqa: A002 - the protocol calls it id
    ) -> DrawnSamples | None:
        """Draw samples from a batch, under the rule of the policy document; return None if none is drawn.

        The caller passes the result to `submit` when the inference has succeeded, else to `discard`.
        """
        fraction = self._fraction if rule is None else self._fraction_under(rule)
        rows = [row for row in range(samples) if self._random() < fraction]
        if not rows:
            return None
        known = [None if labels is None or labels[row] < 0 else int(labels[row]) for row in rows]
        return DrawnSamples(
            rows=rows,
            inputs={name: np.asarray(array)[rows] for name, array in inputs.items()},  # copies
            labels=known,
            ticket=None if id is None else self._awaiting.expect(id, batch=samples, rows=rows, labels=known),
        )

    def _fraction_under(self, rule: AuditRule) -> float:
        """Return the fraction of samples to draw under a rule; log a rule that is cut, once."""
        fraction = rule.fraction_for(own=self._fraction, limit=self._max_fraction)
        if fraction < rule.fraction and rule != self._cut:
            self._cut = rule
            _log.info(
                "the policy asks for audits of %g %% of the samples; audit_fraction and max_audit_fraction allow %g %%",
                100 * rule.fraction,
                100 * fraction,
            )
        return fraction

    def submit(self, drawn: DrawnSamples, result: Inference, *, revision: int, policy: Policy) -> None:
        """Queue drawn samples for their audit. Never blocks: if the queue is full, they are skipped."""
        job = _AuditJob(drawn, result.exits[drawn.rows], result.predictions[drawn.rows], revision, policy)
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self.discard(drawn)
            self._skip(len(drawn.rows))

    def discard(self, drawn: DrawnSamples) -> None:
        """Drop drawn samples that will not be audited, and accept no labels for them."""
        if drawn.ticket is not None:
            self._awaiting.forget(drawn.ticket)

    def feedback(self, id: str, labels: Sequence[int]) -> bool:  # noqa: A002 - the protocol calls it id
        """Attach true classes to the samples of an inference that wait for labels; see `AwaitingLabels.attach`."""
        return self._awaiting.attach(id, labels)

    def flush(self) -> None:
        """Emit all audited samples except those that wait for a label."""
        self._collect(self._awaiting.release())
        self._emit_rest()
        self._repeats.flush()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None and not self._abandoned.is_set():
            self._audit(job)

    def _audit(self, job: _AuditJob) -> None:
        drawn = job.drawn
        try:
            audited = self._audited_samples(job)
            self._skip(len(drawn.rows) - len(audited))
            if drawn.ticket is None:
                self._collect((job.revision, sample) for _, sample in audited)
            elif audited:
                self._collect(self._awaiting.hold(drawn.ticket, job.revision, audited))
            else:
                self.discard(drawn)
        except Exception as error:  # noqa: BLE001 - one failed audit must not end the thread
            self.discard(drawn)
            self._skip(len(drawn.rows))
            self._repeats.error(type(error).__name__, "an audit failed: %s", repr(error), exc_info=error)

    def _audited_samples(self, job: _AuditJob) -> list[tuple[int, AuditedSample]]:
        """Run drawn samples to full depth; return those with finite readouts, and their places among the drawn ones."""
        policy = job.policy
        every = self._runner.infer_every_exit(
            job.drawn.inputs, temperatures=policy.temperatures, probabilities=policy.reads_probabilities
        )
        readouts = every.readouts
        differing = differing_fractions(every.outputs) if self._has_maps else None
        scored = simulate(policy, readouts) if policy.reads_probabilities else None
        return [
            (
                index,
                AuditedSample.from_readout(
                    readouts[index, :, : len(COLUMNS)],
                    exit_index=int(job.exits[index]),
                    prediction=int(job.predictions[index]),
                    label=label,
                    scores=None if scored is None else scored.scores[index],
                    predictions=None if scored is None else scored.predictions[index],
                    differing=None if differing is None else differing[index],
                ),
            )
            for index, label in enumerate(job.drawn.labels)
            if np.isfinite(readouts[index]).all()  # NaN is useless for a fit, and JSON cannot represent it
        ]

    def _skip(self, samples: int) -> None:
        with self._lock:
            self.skipped += samples

    def _collect(self, audited: Iterable[ReleasedSample]) -> None:
        """Collect samples per revision; emit them when there are enough for one message."""
        for revision, sample in audited:
            with self._lock:
                samples = self._audited.setdefault(revision, [])
                samples.append(sample)
                if len(samples) < self._samples_per_message:
                    continue
                del self._audited[revision]
            self._emit(revision, tuple(samples))

    def _emit_rest(self) -> None:
        with self._lock:
            audited, self._audited = self._audited, {}
        for revision, samples in audited.items():
            self._emit(revision, tuple(samples))
