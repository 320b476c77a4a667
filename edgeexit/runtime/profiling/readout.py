"""Measures the time that the readout adds to a stage: runs it with and without softmax, top 2 and entropy.

ONNX Runtime runs every node of a graph, even if its result is not fetched. The option `only_execute_path_to_fetches`
skips no node and costs 40 us per call. The profiler of ONNX Runtime costs 3 us per node, which is as long as a node of
a readout takes. Therefore the readout is removed from the graph, and two sessions, which differ only in this, run in
alternation.
"""

import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import StageBackend
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, StageSpec
from edgeexit.runtime.intervals import percentile_interval
from edgeexit.runtime.profiling.steady import WARM_UP_S
from edgeexit.runtime.stage_run import MS_PER_NS
from edgeexit.targets import load_target

_MIN_PAIRS: Final = 30


class ReadoutCost(NamedTuple):
    """Median difference between a stage with its readout and the same stage without it."""

    value_ms: float
    interval_ms: tuple[float, float]
    """95 % bootstrap interval."""


def measure_readouts(
    bundle: Bundle, backend: StageBackend, inputs: Mapping[str, npt.NDArray[Any]], *, seconds: float
) -> tuple[ReadoutCost | None, ...]:
    """Measure the readout of every stage on one batch, for `seconds` over all stages. Return one cost per stage.

    Only ONNX Runtime can open a stage without its readout; on another backend, every cost is None. If ONNX Runtime
    fails to open a stage without its readout, the costs of this stage and of all later ones are None.
    """
    unknown = (None,) * len(bundle.manifest.stages)
    try:  # not installed on every device
        import onnxruntime  # noqa: F401, PLC0415

        from edgeexit.runtime.profiling.onnx_pruning import without_outputs  # noqa: PLC0415
    except ModuleNotFoundError:
        return unknown
    from edgeexit.backends.onnxruntime.backend import OnnxRuntimeBackend, session_options  # noqa: PLC0415
    from edgeexit.backends.onnxruntime.sessions import StageSession, Weights  # noqa: PLC0415
    from edgeexit.bundle.stage_graphs import read_stage_graph  # noqa: PLC0415

    if not isinstance(backend, OnnxRuntimeBackend):
        return unknown
    target = load_target(bundle.manifest.target)
    tensors = dict(inputs)
    costs: list[ReadoutCost | None] = []
    seconds_per_stage = seconds / len(bundle.manifest.stages)
    for stage in bundle.manifest.stages:
        readout_outputs = {stage.exit.name + READOUT_SUFFIX, stage.exit.name + PROBABILITIES_SUFFIX}
        try:
            graph = read_stage_graph(bundle, stage)
            weights = Weights(bundle, [graph])
            full, pruned = (
                StageSession(content, session_options(target), backend.provider, stored=graph.weights, weights=weights)
                for content in (graph.content, without_outputs(graph.content, readout_outputs))
            )
        except Exception:  # noqa: BLE001 - ONNX Runtime raises errors of many classes; the profile is valid without this cost
            return (*costs, *unknown[len(costs) :])
        bindings = [_bind(session, stage, tensors, readout_outputs) for session in (full, pruned)]
        costs.append(_alternate(full, pruned, bindings, seconds_per_stage))
        names = [output.name for output in pruned.get_outputs()]
        tensors |= dict(zip(names, (value.numpy().copy() for value in bindings[1].get_outputs()), strict=True))
    return tuple(costs)


def _bind(session: Any, stage: StageSpec, tensors: Mapping[str, npt.NDArray[Any]], readout_outputs: set[str]) -> Any:
    """Return an I/O binding of all inputs and outputs of a session, except the readout's probabilities."""
    binding = session.io_binding()
    for name in (*stage.inputs, *stage.carry_in):
        binding.bind_cpu_input(name, np.ascontiguousarray(tensors[name]))
    binding.bind_cpu_input(TEMPERATURE_INPUT, np.ones(1, dtype=np.float32))
    for output in session.get_outputs():
        if not output.name.endswith(PROBABILITIES_SUFFIX) or output.name not in readout_outputs:
            binding.bind_output(output.name, "cpu")
    return binding


def _alternate(full: Any, pruned: Any, bindings: list[Any], seconds: float) -> ReadoutCost:
    """Run both sessions in alternating order (A B, B A); each pair gives one difference."""
    pair = [(full, bindings[0], 0), (pruned, bindings[1], 1)]
    differences: list[float] = []
    warm_until = time.perf_counter() + min(WARM_UP_S, seconds / 4)
    deadline = warm_until + seconds
    count = 0
    while len(differences) < _MIN_PAIRS or time.perf_counter() < deadline:
        duration_ns = [0, 0]
        for session, binding, index in pair if count % 2 else pair[::-1]:
            started = time.perf_counter_ns()
            session.run_with_iobinding(binding)
            duration_ns[index] = time.perf_counter_ns() - started
        count += 1
        if time.perf_counter() >= warm_until:
            differences.append((duration_ns[0] - duration_ns[1]) * MS_PER_NS)
    median = percentile_interval(np.array(differences), 50)
    return ReadoutCost(round(median.value, 6), (round(median.low, 6), round(median.high, 6)))
