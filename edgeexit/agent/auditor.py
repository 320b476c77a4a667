"""Audits: a random share of the samples, run to full depth in a thread of its own after their answer."""

import logging
import math
import queue
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.agent.awaiting import AwaitingLabels, Released, Ticket
from edgeexit.agent.labels import Labels
from edgeexit.datasets import Inputs
from edgeexit.policies import Policy
from edgeexit.policies.readout import ENTROPY, P1, P2, TOP1
from edgeexit.runtime import Inference, Runner
from edgeexit.wire import AuditedSample

_log = logging.getLogger(__name__)

_WAITING_BATCHES: Final = 64
_VALUES_A_MESSAGE: Final = 1024
"""Samples times exits in one message: at most about 100 KB of JSON."""
_MAX_SAMPLES: Final = 256

Emit = Callable[[int, tuple[AuditedSample, ...]], None]
"""Takes a policy revision and the samples audited under it; called in the auditor's thread."""


class Drawn(NamedTuple):
    """Samples drawn from one inference, copied: their owner may write over the arrays."""

    rows: list[int]
    inputs: dict[str, npt.NDArray[np.generic]]
    labels: list[int | None]
    ticket: Ticket | None
    """Where the inference has an id, under which labels may still come."""


class _Answered(NamedTuple):
    drawn: Drawn
    exits: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    revision: int
    policy: Policy


class Auditor:
    """Draws samples by a random bit that does not depend on the input, and runs them to full depth.

    Args:
        runner: shared with inference; thread-safe.
        share: probability of drawing a sample.
        exits: number of exits K.
        emit: takes full messages' worth of audited samples.
        feedback_window_s: how long samples with an id are held for labels that come later; see `AwaitingLabels`.
        random_source: gives numbers in [0, 1).

    """

    def __init__(
        self,
        runner: Runner,
        *,
        fraction: float,
        exits: int,
        emit: Emit,
        feedback_window_s: float = 0.0,
        random_source: Callable[[], float] | None = None,
    ) -> None:
        self._runner = runner
        self._share = fraction
        self._emit = emit
        self._random = random_source or random.Random().random  # noqa: S311 - sampling, no secret
        self._full = max(1, min(_MAX_SAMPLES, _VALUES_A_MESSAGE // exits))
        self._queue: queue.Queue[_Answered | None] = queue.Queue(_WAITING_BATCHES)
        self._awaiting = AwaitingLabels(feedback_window_s)
        self._lock = threading.Lock()
        self._audited: dict[int, list[AuditedSample]] = {}
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._work, name="agent-auditor", daemon=True)
        self.skipped = 0
        """Samples that were drawn and not audited, because the auditor was behind or their run failed."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, timeout_s: float = 2.0) -> None:
        """Finish what is drawn, for at most `timeout_s`, and emit it."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            self._abandoned.set()
        self._thread.join(timeout_s)
        self._abandoned.set()
        self._keep(self._awaiting.release(everything=True))
        self._emit_rest()

    def draw(
        self, inputs: Inputs, samples: int, *, labels: Labels | None = None, identity: str | None = None
    ) -> Drawn | None:
        """Draw from a batch by chance alone, which looks at nothing of it; None: nothing.

        What is drawn goes to `take` once it is answered, or to `drop`.
        """
        rows = [row for row in range(samples) if self._random() < self._share]
        if not rows:
            return None
        known = [None if labels is None or labels[row] < 0 else int(labels[row]) for row in rows]
        return Drawn(
            rows=rows,
            inputs={name: np.asarray(array)[rows] for name, array in inputs.items()},  # copies
            labels=known,
            ticket=None
            if identity is None
            else self._awaiting.expect(identity, batch=samples, rows=rows, labels=known),
        )

    def take(self, drawn: Drawn, result: Inference, *, revision: int, policy: Policy) -> None:
        """Audit what was drawn from a batch that is answered; never waits: what does not fit is skipped."""
        answered = _Answered(drawn, result.exits[drawn.rows], result.predictions[drawn.rows], revision, policy)
        try:
            self._queue.put_nowait(answered)
        except queue.Full:
            self.drop(drawn)
            self._skip(len(drawn.rows))

    def drop(self, drawn: Drawn) -> None:
        """Forget what was drawn."""
        if drawn.ticket is not None:
            self._awaiting.forget(drawn.ticket)

    def feedback(self, identity: str, labels: Sequence[int]) -> bool:
        """Attach true classes to what is drawn of an inference and has not gone out; see `AwaitingLabels.attach`."""
        return self._awaiting.attach(identity, labels)

    def flush(self) -> None:
        """Emit what is audited so far, but for what waits for its label."""
        self._keep(self._awaiting.release())
        self._emit_rest()

    def _work(self) -> None:
        while (answered := self._queue.get()) is not None and not self._abandoned.is_set():
            self._audit(answered)

    def _audit(self, answered: _Answered) -> None:
        drawn = answered.drawn
        try:
            every = self._runner.infer_every_exit(drawn.inputs, temperatures=answered.policy.temperatures)
            audited = [
                (place, audited_sample(readout, exit_index=int(exit_index), prediction=int(prediction), label=label))
                for place, (readout, exit_index, prediction, label) in enumerate(
                    zip(every.readouts, answered.exits, answered.predictions, drawn.labels, strict=True)
                )
                if np.isfinite(readout).all()  # else it says nothing about the policy, and JSON has no word for it
            ]
            self._skip(len(drawn.rows) - len(audited))
            if drawn.ticket is None:
                self._keep((answered.revision, sample) for _, sample in audited)
            elif audited:
                self._keep(self._awaiting.hold(drawn.ticket, answered.revision, audited))
            else:
                self.drop(drawn)
        except Exception:  # noqa: BLE001 - an audit that fails must not end those to come
            self.drop(drawn)
            self._skip(len(drawn.rows))
            _log.exception("audit failed")

    def _skip(self, samples: int) -> None:
        with self._lock:  # several threads may offer
            self.skipped += samples

    def _keep(self, audited: Iterable[Released]) -> None:
        for revision, sample in audited:
            with self._lock:
                samples = self._audited.setdefault(revision, [])
                samples.append(sample)
                if len(samples) < self._full:
                    continue
                del self._audited[revision]
            self._emit(revision, tuple(samples))

    def _emit_rest(self) -> None:
        with self._lock:
            audited, self._audited = self._audited, {}
        for revision, samples in audited.items():
            self._emit(revision, tuple(samples))


def audited_sample(
    readout: npt.NDArray[np.float32], *, exit_index: int, prediction: int | None = None, label: int | None = None
) -> AuditedSample:
    """Return the message form of a sample's readouts [K, 4]; rounding of the softmax is clipped to its range.

    `answer` is what the sample was answered with; it is told where the readout does not say so already.
    """
    top1 = tuple(int(value) for value in readout[:, TOP1])
    return AuditedSample(
        exit=exit_index,
        top1=top1,
        p1=_shortest(readout[:, P1], 1.0),
        p2=_shortest(readout[:, P2], 1.0),
        entropy=_shortest(readout[:, ENTROPY], math.inf),
        label=label,
        prediction=None if exit_index == len(top1) - 1 or prediction == top1[exit_index] else prediction,
    )


def _shortest(values: npt.NDArray[np.float32], highest: float) -> tuple[float, ...]:
    """Return float32 values, clipped to [0, highest], as the shortest decimals that give the same float32 back."""
    return tuple(float(str(value)) for value in np.clip(values, 0.0, highest))
