"""The staged runner: stage by stage, every sample leaves at its own exit."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle import Bundle
from edgeexit.datasets import Inputs, check_inputs
from edgeexit.errors import PolicyError
from edgeexit.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, Manifest
from edgeexit.policies import AnyPolicy
from edgeexit.policies.readout import COLUMNS
from edgeexit.runtime.backend import StageBackend, make_backend

_MS_PER_NS = 1e-6


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of a batch, in the order of its samples."""

    answers: npt.NDArray[np.int64]
    """[B] class that the policy answers with: the most probable one at the exit taken, but where a policy lets
    several exits vote. To segment, the one that is most probable on average over the pixels."""
    exits: npt.NDArray[np.int64]
    """[B] index of the exit taken."""
    outputs: npt.NDArray[np.float32]
    """[B, C] raw outputs (logits) of the exit taken; to segment, [B, C, H, W]."""
    readouts: npt.NDArray[np.float32]
    """[B, 4] readout at the exit taken."""
    scores: npt.NDArray[np.float32]
    """[B, K] score at every exit reached, NaN beyond."""
    latency_ms: npt.NDArray[np.float64]
    """[B] from the call to the decision that let the sample leave."""
    stage_ms: tuple[float, ...]
    """Duration of each stage that ran, readout included, decision not."""


class EveryExit(msgspec.Struct, frozen=True, kw_only=True):
    """Every exit's raw outputs and readouts of a batch."""

    outputs: dict[str, npt.NDArray[np.float32]]
    """Exit name -> [B, C]; to segment, [B, C, H, W]."""
    readouts: npt.NDArray[np.float32]
    """[B, K, 4], or [B, K, 4 + C] with the probabilities."""
    stage_ms: tuple[float, ...]
    """[K] duration of each stage."""


class _Stage(NamedTuple):
    """What the runner looks up for a stage at every call, worked out once."""

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    """Raw output, readout, then carries: the order in which they are fetched."""
    probabilities: str
    """Name of the output that is fetched last, when a policy reads it."""
    needed_later: tuple[str, ...]
    """Tensors that a later stage reads and that are there after this one."""


class Runner:
    """Runs a bundle; a context manager that opens its backend. Calls may come from several threads.

    Args:
        bundle: an opened bundle.
        backend: default: the one that the bundle's target names.

    """

    def __init__(self, bundle: Bundle, *, backend: StageBackend | None = None) -> None:
        self._manifest = bundle.manifest
        self._backend = backend or make_backend(bundle)
        self._stages = _plan(bundle)
        self._ones = (1.0,) * len(self._stages)

    def __enter__(self) -> "Runner":
        """Open the backend."""
        self._backend.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the backend."""
        self._backend.__exit__(kind, error, traceback)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle that it runs."""
        return self._manifest

    @property
    def runtime(self) -> str:
        """Name and version of the runtime."""
        return self._backend.description

    def infer(self, inputs: Inputs, *, policy: AnyPolicy) -> Inference:
        """Answer a batch, each sample at the first exit that the policy lets it leave.

        Args:
            inputs: model input name -> array [B, ...] of the manifest's shape and dtype.
            policy: decides after every stage; its numbers of exits and classes must be the bundle's.

        Raises DataError for inputs that do not fit and PolicyError for a policy of other numbers of exits or classes.

        """
        started = time.perf_counter_ns()
        exits = len(self._stages)
        if policy.exits != exits:
            raise PolicyError(f"policy '{policy.kind}' is for {policy.exits} exits, the bundle has {exits}")
        if policy.classes not in {None, self._manifest.classes}:
            raise PolicyError(
                f"policy '{policy.kind}' is for {policy.classes} classes, the bundle has {self._manifest.classes}"
            )
        tensors: dict[str, npt.NDArray[Any]] = check_inputs(inputs, self._manifest.inputs, where="the batch")
        batch = len(next(iter(tensors.values())))
        alive = np.arange(batch)
        state = policy.initial_state(batch)
        outputs = np.empty(0, dtype=np.float32)
        readouts = np.empty((batch, len(COLUMNS)), dtype=np.float32)
        answers = np.empty(batch, dtype=np.int64)
        scores = np.full((batch, exits), np.nan, dtype=np.float32)
        taken = np.empty(batch, dtype=np.int64)
        latency_ms = np.empty(batch, dtype=np.float64)
        stage_ms = []
        for k in range(exits):
            stage_started = time.perf_counter_ns()
            raw, readout = self._run_stage(k, tensors, policy.temperatures[k], probabilities=policy.reads_probabilities)
            stage_ms.append((time.perf_counter_ns() - stage_started) * _MS_PER_NS)
            if k == 0:
                outputs = np.empty((batch, *raw.shape[1:]), dtype=np.float32)
            decision = policy.decide(k, readout, state)
            scores[alive, k] = decision.score
            leaves = decision.leaves
            leaving = alive[leaves]
            outputs[leaving] = raw[leaves]
            readouts[leaving] = readout[leaves, : len(COLUMNS)]
            answers[leaving] = decision.answer[leaves]
            taken[leaving] = k
            latency_ms[leaving] = (time.perf_counter_ns() - started) * _MS_PER_NS
            if len(leaving) == len(alive):
                break
            stays = ~leaves
            state = decision.state
            if len(leaving):
                alive, state = alive[stays], state[stays]
                tensors = {name: array[stays] for name, array in tensors.items()}
        return Inference(
            answers=answers,
            exits=taken,
            outputs=outputs,
            readouts=readouts,
            scores=scores,
            latency_ms=latency_ms,
            stage_ms=tuple(stage_ms),
        )

    def infer_every_exit(
        self, inputs: Inputs, *, temperatures: Sequence[float] | None = None, probabilities: bool = False
    ) -> EveryExit:
        """Run a batch to full depth and return every exit; temperatures [K], default 1.

        With `probabilities`, each readout has those of all classes behind its four columns. Raises DataError for inputs
        that do not fit and PolicyError for another number of temperatures than exits.
        """
        if temperatures is not None and len(temperatures) != len(self._stages):
            raise PolicyError(f"{len(temperatures)} temperatures are given for {len(self._stages)} exits")
        tensors: dict[str, npt.NDArray[Any]] = check_inputs(inputs, self._manifest.inputs, where="the batch")
        outputs, readouts, stage_ms = {}, [], []
        for k, temperature in enumerate(temperatures or self._ones):
            stage_started = time.perf_counter_ns()
            raw, readout = self._run_stage(k, tensors, temperature, probabilities=probabilities)
            stage_ms.append((time.perf_counter_ns() - stage_started) * _MS_PER_NS)
            outputs[self._manifest.exits[k]] = raw
            readouts.append(readout)
        return EveryExit(outputs=outputs, readouts=np.stack(readouts, axis=1), stage_ms=tuple(stage_ms))

    def _run_stage(
        self, k: int, tensors: dict[str, npt.NDArray[Any]], temperature: float, *, probabilities: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Run stage k on `tensors`, leave in there what later stages read, and return raw output and readout."""
        stage = self._stages[k]
        feeds = {name: tensors[name] for name in stage.reads}
        feeds[TEMPERATURE_INPUT] = np.array([temperature], dtype=np.float32)
        results = self._backend.run(k, feeds, (*stage.makes, stage.probabilities) if probabilities else stage.makes)
        readout = np.concatenate([results[1], results.pop()], axis=1) if probabilities else results[1]
        tensors.update(zip(stage.makes, results, strict=True))
        for name in tensors.keys() - set(stage.needed_later):
            del tensors[name]
        return results[0], readout


def _plan(bundle: Bundle) -> tuple[_Stage, ...]:
    specs = bundle.manifest.stages
    stages = []
    available = {spec.name for spec in bundle.manifest.inputs}
    for k, spec in enumerate(specs):
        makes = (spec.exit.name, spec.exit.name + READOUT_SUFFIX, *(tensor.name for tensor in spec.carry_out))
        available |= set(makes)
        later = {name for other in specs[k + 1 :] for name in (*other.inputs, *other.carry_in)}
        stages.append(
            _Stage(
                reads=(*spec.inputs, *spec.carry_in),
                makes=tuple(dict.fromkeys(makes)),
                probabilities=spec.exit.name + PROBABILITIES_SUFFIX,
                needed_later=tuple(sorted(available & later)),
            )
        )
    return tuple(stages)
