"""Audits: a random share of the samples, run to full depth in a thread of its own after their answer."""

import logging
import math
import queue
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.datasets import Inputs
from edgeexit.messages import AuditedSample
from edgeexit.policies import AnyPolicy
from edgeexit.policies.readout import ENTROPY, P1, P2, TOP1
from edgeexit.runtime import Inference, Runner

_log = logging.getLogger(__name__)

_WAITING_BATCHES: Final = 64
_VALUES_A_MESSAGE: Final = 1024
"""Samples times exits in one message: at most about 100 KB of JSON."""
_MOST_SAMPLES: Final = 256

Labels = Sequence[int] | npt.NDArray[np.integer[Any]]
"""[B] class of each sample, negative where it is not known."""
Emit = Callable[[int, tuple[AuditedSample, ...]], None]
"""Takes a policy revision and the samples audited under it; called in the auditor's thread."""


class _Drawn(NamedTuple):
    """Samples drawn from one inference, copied: their owner may write over the arrays."""

    inputs: dict[str, npt.NDArray[np.generic]]
    exits: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    labels: list[int | None]
    revision: int
    policy: AnyPolicy


class Auditor:
    """Draws samples by a random bit that does not depend on the input, and runs them to full depth.

    Args:
        runner: shared with inference; thread-safe.
        share: probability of drawing a sample.
        exits: number of exits K.
        emit: takes full messages' worth of audited samples.
        random_source: gives numbers in [0, 1).

    """

    def __init__(
        self,
        runner: Runner,
        *,
        share: float,
        exits: int,
        emit: Emit,
        random_source: Callable[[], float] | None = None,
    ) -> None:
        self._runner = runner
        self._share = share
        self._emit = emit
        self._random = random_source or random.Random().random  # noqa: S311 - sampling, no secret
        self._full = max(1, min(_MOST_SAMPLES, _VALUES_A_MESSAGE // exits))
        self._queue: queue.Queue[_Drawn | None] = queue.Queue(_WAITING_BATCHES)
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
        self.flush()

    def offer(
        self, inputs: Inputs, result: Inference, *, revision: int, policy: AnyPolicy, labels: Labels | None
    ) -> None:
        """Draw from a batch that is answered; never waits: what does not fit is skipped."""
        drawn = [row for row in range(len(result.exits)) if self._random() < self._share]
        if not drawn:
            return
        batch = _Drawn(
            inputs={name: np.asarray(array)[drawn] for name, array in inputs.items()},  # copies
            exits=result.exits[drawn],
            answers=result.answers[drawn],
            labels=[None if labels is None or labels[row] < 0 else int(labels[row]) for row in drawn],
            revision=revision,
            policy=policy,
        )
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            self._skip(len(drawn))

    def flush(self) -> None:
        """Emit what is audited so far."""
        with self._lock:
            audited, self._audited = self._audited, {}
        for revision, samples in audited.items():
            self._emit(revision, tuple(samples))

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None and not self._abandoned.is_set():
            self._audit(batch)

    def _audit(self, batch: _Drawn) -> None:
        try:
            every = self._runner.infer_every_exit(batch.inputs, temperatures=batch.policy.temperatures)
            rows = zip(every.readouts, batch.exits, batch.answers, batch.labels, strict=True)
            for readout, exit_index, answer, label in rows:
                if np.isfinite(readout).all():
                    sample = audited_sample(readout, exit_index=int(exit_index), answer=int(answer), label=label)
                    self._keep(batch.revision, sample)
                else:  # a broken sample says nothing about the policy, and JSON has no word for it
                    self._skip(1)
        except Exception:  # noqa: BLE001 - an audit that fails must not end those to come
            self._skip(len(batch.exits))
            _log.exception("audit failed")

    def _skip(self, samples: int) -> None:
        with self._lock:  # several threads may offer
            self.skipped += samples

    def _keep(self, revision: int, sample: AuditedSample) -> None:
        with self._lock:
            samples = self._audited.setdefault(revision, [])
            samples.append(sample)
            if len(samples) < self._full:
                return
            del self._audited[revision]
        self._emit(revision, tuple(samples))


def audited_sample(
    readout: npt.NDArray[np.float32], *, exit_index: int, answer: int | None = None, label: int | None = None
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
        answer=None if exit_index == len(top1) - 1 or answer == top1[exit_index] else answer,
    )


def _shortest(values: npt.NDArray[np.float32], highest: float) -> tuple[float, ...]:
    """Return float32 values, clipped to [0, highest], as the shortest decimals that give the same float32 back."""
    return tuple(float(str(value)) for value in np.clip(values, 0.0, highest))
