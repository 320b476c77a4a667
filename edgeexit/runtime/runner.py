"""Runs a batch stage by stage; the policy decides after each stage which samples exit."""

import itertools
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from math import isfinite
from types import TracebackType
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import StageBackend
from edgeexit.backends.selection import make_backend
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import Manifest
from edgeexit.datasets import Inputs, check_finite, check_inputs
from edgeexit.errors import DataError, InferenceError, PolicyError
from edgeexit.policies import Policy
from edgeexit.runtime.fork import ForkedBackend, keep_forever, refusal, unwatch, watch
from edgeexit.runtime.inference import (
    EveryExitInference,
    Inference,
    InferenceBuilder,
    concatenate,
    continuing_rows,
)
from edgeexit.runtime.scheduler import Scheduler
from edgeexit.runtime.single_run import SingleRun
from edgeexit.runtime.stage_run import MS_PER_NS, run_and_time, run_stage

NotFinite = Literal["refuse", "pass"]
"""What happens to an input with NaN or infinity: `refuse` raises DataError; `pass` runs it to the final exit."""

_WHERE = "the batch"


class Runner:
    """Runs the stages of a bundle. A context manager that opens the backend; several threads may call it at once.

    Only the process that opened it can use it: after a fork, the copy in the child process raises InferenceError.

    Args:
        bundle: an opened bundle.
        backend: runs the stages; default: the backend that the bundle's target names.
        fallback: whether another runtime or provider may replace the one that the target names; see `make_backend`.
        not_finite: what happens to an input that contains NaN or infinity; masks of the bundle may contain minus
            infinity.
        max_delay_ms: longest time for which `infer_async` lets samples wait at a stage while new ones run the earlier
            stages, so that more of them run their next stage together.
        max_waiting: maximum number of samples in progress in `infer_async`; a single request may exceed it if no other
            sample is in progress.

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
            raise ValueError(f"not_finite is '{not_finite}'; it must be one of {', '.join(get_args(NotFinite))}")
        if not (max_delay_ms >= 0 and isfinite(max_delay_ms)):
            raise ValueError(f"max_delay_ms is {max_delay_ms}; it must be finite and at least 0")
        if max_waiting < 1:
            raise ValueError(f"max_waiting is {max_waiting}; it must be at least 1")
        self._manifest = bundle.manifest
        self._backend = backend or make_backend(bundle, fallback=fallback)
        self._exits = len(bundle.manifest.stages)
        self._has_companions = bool(bundle.manifest.companions)
        self._shared_dimensions = _shared_dimensions(bundle.manifest)
        self._single_inputs = () if not_finite == "refuse" else _single_inputs(bundle.manifest)
        self._fitting_policy: Policy | None = None
        self._not_finite = not_finite
        self._max_delay_ms = max_delay_ms
        self._max_waiting = max_waiting
        self._scheduler: Scheduler | None = None
        self._open = False
        self._refusal = "the runner is closed and accepts no samples"
        self._process = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Runner":
        """Open the backend."""
        self._backend.__enter__()
        self._process = os.getpid()
        self._open = True
        watch(self, Runner._abandon_after_fork)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the requests of `infer_async`, and close the backend.

        If a stage hangs for ten seconds, the unfinished requests fail with InferenceError, and a warning is logged.
        """
        with self._lock:
            self._open = False
            scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.close()
        self._backend.__exit__(kind, error, traceback)
        unwatch(self)

    def __reduce__(self) -> NoReturn:
        """Raise TypeError: a runner cannot be pickled, as `multiprocessing` does to pass it to a new process."""
        raise TypeError("a Runner cannot be sent to another process; open the bundle in the process that uses it")

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._manifest

    @property
    def runtime(self) -> str:
        """Name and version of the runtime."""
        return self._backend.description

    @property
    def warnings(self) -> Sequence[str]:
        """One line per difference from the target, e.g. another execution provider; empty until the runner is open."""
        return self._backend.warnings

    def infer(self, inputs: Inputs, *, policy: Policy) -> Inference:
        """Run a batch; each sample exits at the first exit at which the policy allows it.

        Args:
            inputs: model input name -> array [B, ...] of the manifest's shape and dtype. A batch above the backend's
                `max_batch` runs in several chunks.
            policy: decides after every stage which samples exit. It must have the same numbers of exits and classes as
                the bundle.

        Raises DataError for inputs that do not match the manifest, PolicyError for a policy with other numbers of exits
        or classes, and InferenceError if the runtime fails or the runner is closed.

        """
        started_ns = time.perf_counter_ns()
        if policy is not self._fitting_policy:
            self.check_policy(policy)
            self._fitting_policy = policy
        if self._is_single(inputs):
            return self._infer_single(inputs, policy, started_ns)
        tensors = self.check(inputs)
        batch, max_batch = len(next(iter(tensors.values()))), self._backend.max_batch
        if batch == 1:
            return self._infer_single(tensors, policy, started_ns)
        if batch <= max_batch:
            return self._infer(tensors, batch, policy, started_ns)
        return concatenate(
            [
                self._infer(chunk, len(next(iter(chunk.values()))), policy, started_ns)
                for chunk in _chunks(tensors, batch, max_batch)
            ]
        )

    def infer_async(self, inputs: Inputs, *, policy: Policy) -> Future[Inference]:
        """Run a batch in the scheduler's thread, together with other requests that wait for the same stage.

        The inputs are copied. Latencies count from the call; stage durations are those of the combined batches. Raises
        the errors of `infer`, and OverloadedError if more than `max_waiting` samples would be in progress. The future
        raises InferenceError if the runtime fails.
        """
        self.check_policy(policy)
        tensors = self.check(inputs)
        with self._lock:
            if not self._open:
                raise InferenceError(self._refusal)
            if self._scheduler is None:
                self._scheduler = Scheduler(
                    self._backend,
                    self._exits,
                    has_companions=self._has_companions,
                    max_delay_ms=self._max_delay_ms,
                    max_waiting=self._max_waiting,
                )
            scheduler = self._scheduler
        return scheduler.submit(tensors, policy)

    def infer_every_exit(
        self, inputs: Inputs, *, temperatures: Sequence[float] | None = None, probabilities: bool = False
    ) -> EveryExitInference:
        """Run a batch to full depth and return the outputs and readouts of every exit.

        Args:
            inputs: as in `infer`.
            temperatures: [K] softmax temperatures; default: 1.
            probabilities: append the probabilities of all classes to each readout.

        Raises DataError for inputs that do not match the manifest, PolicyError if the number of temperatures differs
        from the number of exits, and InferenceError as `infer` does.

        """
        if temperatures is not None and len(temperatures) != self._exits:
            raise PolicyError(f"there are {len(temperatures)} temperatures for {self._exits} exits; give one per exit")
        tensors = self.check(inputs)
        batch, max_batch = len(next(iter(tensors.values()))), self._backend.max_batch
        outputs: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(self._exits)]
        readouts, stage_ms = [], np.zeros(self._exits)
        for chunk in _chunks(tensors, batch, max_batch):
            columns = []
            with self._backend.begin(chunk, probabilities=probabilities) as staged:
                for k in range(self._exits):
                    readout, started_ns, ended_ns = run_and_time(
                        staged, 1.0 if temperatures is None else temperatures[k]
                    )
                    stage_ms[k] += (ended_ns - started_ns) * MS_PER_NS
                    outputs[k].append(staged.outputs().copy())
                    columns.append(readout)
                readouts.append(np.stack(columns, axis=1))
        return EveryExitInference(
            outputs={
                name: chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
                for name, chunks in zip(self._manifest.exits, outputs, strict=True)
            },
            readouts=readouts[0] if len(readouts) == 1 else np.concatenate(readouts),
            stage_ms=tuple(stage_ms.tolist()),
        )

    def check(self, inputs: Inputs) -> dict[str, npt.NDArray[Any]]:
        """Return the model's input arrays. Raises DataError for an array that is missing, misshapen or not finite."""
        tensors = check_inputs(inputs, self._manifest.inputs, where=_WHERE)
        for symbol, (first, first_axis), others in self._shared_dimensions:
            size = tensors[first].shape[first_axis]
            for name, axis in others:
                if (found := tensors[name].shape[axis]) != size:
                    raise DataError(
                        f"{_WHERE}: symbolic dimension '{symbol}' is {found} in '{name}' and {size} in '{first}'; "
                        "give both the same size"
                    )
        if self._not_finite == "refuse":
            check_finite(tensors, where=_WHERE, masks=self._manifest.masks)
        return tensors

    def check_policy(self, policy: Policy) -> None:
        """Raise PolicyError if the policy's number of exits or classes differs from the bundle's."""
        policy.require_fits(self._exits, self._manifest.classes)

    def _abandon_after_fork(self) -> None:
        """Make this copy of an open runner refuse every inference, in a child of the process that opened it."""
        self._lock = threading.Lock()  # a thread of the parent may hold the old one
        self._open, self._refusal = False, refusal("runner", self._process)
        scheduler, self._scheduler = self._scheduler, None
        self._backend = ForkedBackend(self._backend, self._refusal)
        if scheduler is not None:
            keep_forever(scheduler)
            scheduler.fail_after_fork(self._refusal)

    def _is_single(self, inputs: Inputs) -> bool:
        """Return True if `inputs` is one sample that matches the manifest; False if only `check` can decide it."""
        expected = self._single_inputs
        if not expected or len(inputs) != len(expected):
            return False
        for name, shape, dtype in expected:
            array = inputs.get(name)
            if type(array) is not np.ndarray or array.shape != shape or array.dtype is not dtype:
                return False
        return True

    def _infer_single(self, tensors: Inputs, policy: Policy, started_ns: int) -> Inference:
        """Run a single sample; faster than `_infer`, because no rows are selected."""
        with self._backend.begin(tensors, probabilities=policy.reads_probabilities) as staged:
            run = SingleRun(staged, policy)
            while not run.advance():  # True at the final exit at the latest
                pass
            companions = staged.companions() if self._has_companions else {}
            return run.result(companions=companions, started_ns=started_ns)

    def _infer(self, tensors: dict[str, npt.NDArray[Any]], batch: int, policy: Policy, started_ns: int) -> Inference:
        """Run a batch of at most `max_batch` samples; latencies count from `started_ns`."""
        builder = InferenceBuilder(batch, self._exits)
        samples = np.arange(batch)  # position in the batch of every sample that continues
        state, runs = policy.initial_state(batch), []
        with self._backend.begin(tensors, probabilities=policy.reads_probabilities) as staged:
            for k in range(self._exits):
                run = run_stage(staged, policy, k, state)
                runs.append(run)
                builder.add_scores(k, samples, run.decision.score)
                exiting = np.flatnonzero(run.decision.exit_mask)
                state = run.decision.state
                if not len(exiting):
                    continue
                latency_ms = (run.decided_ns - started_ns) * MS_PER_NS
                builder.add_exited(
                    run,
                    samples[exiting],
                    exiting,
                    outputs=staged.outputs(),
                    latency_ms=latency_ms,
                    companions=staged.companions() if self._has_companions else {},
                )
                if len(exiting) == len(samples):
                    break
                rows = continuing_rows(run.decision.exit_mask)
                staged.select_rows(rows)
                samples, state = samples[rows], state[rows]
        return builder.build([run.stage_ms for run in runs], [run.decide_ms for run in runs])


def _shared_dimensions(manifest: Manifest) -> list[tuple[str, tuple[str, int], list[tuple[str, int]]]]:
    """Return the symbolic dimensions, except the batch, that occur on several axes of the inputs.

    Each entry is the name of the dimension, its first (input name, axis), and its other ones.
    """
    axes: dict[str, list[tuple[str, int]]] = {}
    for spec in manifest.inputs:
        for axis, size in enumerate(spec.shape):
            if axis and isinstance(size, str):
                axes.setdefault(size, []).append((spec.name, axis))
    return [(symbol, found[0], found[1:]) for symbol, found in axes.items() if len(found) > 1]


def _single_inputs(manifest: Manifest) -> tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]:
    """Return name, shape and dtype of each model input for one sample; empty if there are symbolic dimensions."""
    shapes = {spec.name: (1, *(size for size in spec.shape[1:] if isinstance(size, int))) for spec in manifest.inputs}
    if any(len(shapes[spec.name]) != len(spec.shape) for spec in manifest.inputs):
        return ()
    return tuple((spec.name, shapes[spec.name], np.dtype(spec.dtype)) for spec in manifest.inputs)


def _chunks(tensors: dict[str, npt.NDArray[Any]], batch: int, max_batch: int) -> list[dict[str, npt.NDArray[Any]]]:
    """Split a batch into the fewest chunks of at most `max_batch` samples, of nearly equal size."""
    count = -(-batch // max_batch)
    bounds = [batch * index // count for index in range(count + 1)]
    return [{name: array[start:end] for name, array in tensors.items()} for start, end in itertools.pairwise(bounds)]
