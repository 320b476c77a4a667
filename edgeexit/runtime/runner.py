"""The staged runner: stage by stage, every sample leaves at its own exit."""

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from math import isfinite
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import StageBackend
from edgeexit.backends.selection import make_backend
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import Manifest
from edgeexit.datasets import Inputs, check_finite, check_inputs
from edgeexit.errors import DataError, InferenceError, PolicyError
from edgeexit.policies import Policy
from edgeexit.runtime.inference import EveryExit, Inference, InferenceBuilder, concatenate, of_one, survivors
from edgeexit.runtime.scheduler import Scheduler
from edgeexit.runtime.stage_run import MS_PER_NS, run_stage

NotFinite = Literal["refuse", "pass"]
"""What becomes of an input with NaN or infinity: refused (DataError), or run, to leave at the final exit."""

_WHERE = "the batch"


class Runner:
    """Runs a bundle; a context manager that opens its backend. Calls may come from several threads.

    Args:
        bundle: an opened bundle.
        backend: default: the one that the bundle's target names.
        fallback: whether another may stand in for that one; see `make_backend`.
        not_finite: what becomes of NaN and infinity in an input.
        max_delay_ms: longest time for which `infer_async` passes samples over for new ones, so that more of them run
            their next stage together.
        max_waiting: most samples that `infer_async` has under way; one request alone may have more.

    Raises ValueError for options out of range.

    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: StageBackend | None = None,
        fallback: bool = True,
        not_finite: NotFinite = "pass",
        max_delay_ms: float = 0.0,
        max_waiting: int = 256,
    ) -> None:
        if not_finite not in get_args(NotFinite):
            raise ValueError(f"not_finite is '{not_finite}'; it is one of {', '.join(get_args(NotFinite))}")
        if not (max_delay_ms >= 0 and isfinite(max_delay_ms) and max_waiting >= 1):
            raise ValueError(f"max_delay_ms is {max_delay_ms}, from 0 up; max_waiting is {max_waiting}, from 1 up")
        self._manifest = bundle.manifest
        self._backend = backend or make_backend(bundle, fallback=fallback)
        self._exits = len(bundle.manifest.stages)
        self._shared_sizes = _shared_sizes(bundle.manifest)
        self._not_finite = not_finite
        self._max_delay_ms = max_delay_ms
        self._max_waiting = max_waiting
        self._scheduler: Scheduler | None = None
        self._open = False
        self._lock = threading.Lock()

    def __enter__(self) -> "Runner":
        """Open the backend."""
        self._backend.__enter__()
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Answer what `infer_async` has taken in, and close the backend.

        A stage that does not end is waited for ten seconds; then whoever asked is told so, and the log.
        """
        with self._lock:
            self._open = False
            scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.close()
        self._backend.__exit__(kind, error, traceback)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle that it runs."""
        return self._manifest

    @property
    def runtime(self) -> str:
        """Name and version of the runtime."""
        return self._backend.description

    @property
    def warnings(self) -> Sequence[str]:
        """What differs from what the target names, a line each, known once it is open."""
        return self._backend.warnings

    def infer(self, inputs: Inputs, *, policy: Policy) -> Inference:
        """Answer a batch, each sample at the first exit that the policy lets it leave.

        Args:
            inputs: model input name -> array [B, ...] of the manifest's shape and dtype. What is more than the
                backend takes at a time runs in several batches.
            policy: decides after every stage; its numbers of exits and classes must be the bundle's.

        Raises DataError for inputs that do not fit, PolicyError for a policy of other numbers of exits or classes, and
        InferenceError where the runtime refuses or the runner is closed.

        """
        started = time.perf_counter_ns()
        self.check_policy(policy)
        tensors = self.check(inputs)
        batch, most = len(next(iter(tensors.values()))), self._backend.max_batch
        if batch == 1:
            return self._infer_one(tensors, policy, started)
        if batch <= most:
            return self._infer(tensors, batch, policy, started)
        return concatenate(
            [
                self._infer(part, len(next(iter(part.values()))), policy, started)
                for part in _parts(tensors, batch, most)
            ]
        )

    def infer_async(self, inputs: Inputs, *, policy: Policy) -> Future[Inference]:
        """Answer a batch in the scheduler's thread, together with whatever else waits at the same stages.

        The inputs are copied. Latencies count from the call, durations are those of the batches that the samples were
        in. Raises what `infer` does, and OverloadedError where `max_waiting` samples are under way. The future raises
        InferenceError where the runtime refuses.
        """
        self.check_policy(policy)
        tensors = self.check(inputs)
        with self._lock:
            if not self._open:
                raise InferenceError("the runner is closed; no more samples are taken")
            if self._scheduler is None:
                self._scheduler = Scheduler(
                    self._backend, self._exits, max_delay_ms=self._max_delay_ms, max_waiting=self._max_waiting
                )
            scheduler = self._scheduler
        return scheduler.submit(tensors, policy)

    def infer_every_exit(
        self, inputs: Inputs, *, temperatures: Sequence[float] | None = None, probabilities: bool = False
    ) -> EveryExit:
        """Run a batch to full depth and return every exit; temperatures [K], default 1.

        With `probabilities`, each readout has those of all classes behind its four columns. Raises DataError for inputs
        that do not fit and PolicyError for another number of temperatures than exits.
        """
        if temperatures is not None and len(temperatures) != self._exits:
            raise PolicyError(f"{len(temperatures)} temperatures are given for {self._exits} exits")
        tensors = self.check(inputs)
        batch, most = len(next(iter(tensors.values()))), self._backend.max_batch
        outputs: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(self._exits)]
        readouts, stage_ms = [], np.zeros(self._exits)
        for part in _parts(tensors, batch, most):
            columns = []
            with self._backend.begin(part, probabilities=probabilities) as staged:
                for k in range(self._exits):
                    stage_started = time.perf_counter_ns()
                    readout = staged.run(1.0 if temperatures is None else temperatures[k])
                    stage_ms[k] += (time.perf_counter_ns() - stage_started) * MS_PER_NS
                    outputs[k].append(staged.outputs().copy())
                    columns.append(readout)
                readouts.append(np.stack(columns, axis=1))
        return EveryExit(
            outputs={
                name: parts[0] if len(parts) == 1 else np.concatenate(parts)
                for name, parts in zip(self._manifest.exits, outputs, strict=True)
            },
            readouts=readouts[0] if len(readouts) == 1 else np.concatenate(readouts),
            stage_ms=tuple(stage_ms.tolist()),
        )

    def check(self, inputs: Inputs) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that the model reads. Raises DataError for what is missing, misshapen or refused."""
        tensors = check_inputs(inputs, self._manifest.inputs, where=_WHERE)
        for word, (first, axis), others in self._shared_sizes:
            size = tensors[first].shape[axis]
            for name, place in others:
                if (found := tensors[name].shape[place]) != size:
                    raise DataError(
                        f"{_WHERE}: '{name}' has {found} for '{word}' where '{first}' has {size}; give both the same"
                    )
        if self._not_finite == "refuse":
            check_finite(tensors, where=_WHERE)
        return tensors

    def check_policy(self, policy: Policy) -> None:
        """Raise PolicyError for a policy of other numbers of exits or classes than the bundle's."""
        if policy.exits != self._exits:
            raise PolicyError(f"policy '{policy.kind}' is for {policy.exits} exits, the bundle has {self._exits}")
        classes = policy.classes
        if classes is not None and classes != self._manifest.classes:
            raise PolicyError(
                f"policy '{policy.kind}' is for {classes} classes, the bundle has {self._manifest.classes}"
            )

    def _infer_one(self, tensors: dict[str, npt.NDArray[Any]], policy: Policy, started: int) -> Inference:
        """Do what `_infer` does, for a batch of one, which has no order to keep and costs least this way."""
        state, runs = policy.initial_state(1), []
        with self._backend.begin(tensors, probabilities=policy.reads_probabilities) as staged:
            for k in range(self._exits):
                run = run_stage(staged, policy, k, state)
                runs.append(run)
                if run.decision.exit_mask[0]:  # at the final exit always
                    break
                state = run.decision.state
            latency_ms = (run.decided - started) * MS_PER_NS
            return of_one(runs, exits=self._exits, outputs=staged.outputs(), latency_ms=latency_ms)

    def _infer(self, tensors: dict[str, npt.NDArray[Any]], batch: int, policy: Policy, started: int) -> Inference:
        """Answer a batch that the backend takes whole; latencies count from `started`, in ns."""
        predictions = InferenceBuilder(batch, self._exits)
        samples = np.arange(batch)  # the place in the batch of each that goes on
        state, runs = policy.initial_state(batch), []
        with self._backend.begin(tensors, probabilities=policy.reads_probabilities) as staged:
            for k in range(self._exits):
                run = run_stage(staged, policy, k, state)
                runs.append(run)
                predictions.score(k, samples, run.decision.score)
                leaving = np.flatnonzero(run.decision.exit_mask)
                state = run.decision.state
                if not len(leaving):
                    continue
                latency_ms = (run.decided - started) * MS_PER_NS
                predictions.leave(run, samples[leaving], leaving, outputs=staged.outputs(), latency_ms=latency_ms)
                if len(leaving) == len(samples):
                    break
                rows = survivors(run.decision.exit_mask)
                staged.select_rows(rows)
                samples, state = samples[rows], state[rows]
        return predictions.inference([run.stage_ms for run in runs], [run.decide_ms for run in runs])


def _shared_sizes(manifest: Manifest) -> list[tuple[str, tuple[str, int], list[tuple[str, int]]]]:
    """Return the words in input shapes that stand at several places, the batch's apart: word, first place, others."""
    places: dict[str, list[tuple[str, int]]] = {}
    for spec in manifest.inputs:
        for axis, size in enumerate(spec.shape):
            if axis and isinstance(size, str):
                places.setdefault(size, []).append((spec.name, axis))
    return [(word, found[0], found[1:]) for word, found in places.items() if len(found) > 1]


def _parts(tensors: dict[str, npt.NDArray[Any]], batch: int, most: int) -> list[dict[str, npt.NDArray[Any]]]:
    """Cut a batch into such as the backend takes, as even as can be."""
    count = -(-batch // most)
    cuts = [batch * part // count for part in range(count + 1)]
    return [{name: array[start:end] for name, array in tensors.items()} for start, end in itertools.pairwise(cuts)]
