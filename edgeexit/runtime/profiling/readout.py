"""What the readout adds to a stage: the stage as it is and the stage without softmax, top 2 and entropy, in turns.

ONNX Runtime runs every node of a graph whatever is fetched: its option `only_execute_path_to_fetches` leaves none out
and costs 40 us a call, and its own profiler costs 3 us a node, as much as a node of a readout takes. So the readout is
taken out of the graph, and two sessions that differ in nothing else run side by side.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.backends.base import StageBackend
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, StageSpec
from edgeexit.runtime.intervals import percentile_interval
from edgeexit.runtime.profiling.onnx_wire import without_outputs
from edgeexit.runtime.profiling.steady import WARM_UP_S
from edgeexit.targets import load_target

_MIN_TURNS = 30
_MS_PER_NS = 1e-6


class ReadoutCost(NamedTuple):
    """Median difference between a stage with its readout and the same one without."""

    value_ms: float
    interval_ms: tuple[float, float]
    """95 %, by bootstrap."""


def measure_readouts(
    bundle: Bundle, backend: StageBackend, inputs: Mapping[str, npt.NDArray[Any]], *, seconds: float
) -> tuple[ReadoutCost | None, ...]:
    """Measure the readout of every stage on one batch, for `seconds` over all stages.

    Only ONNX Runtime's graphs can be opened without their readout: None for every stage on another backend, and from
    the first stage on where one does not open.
    """
    try:
        import onnxruntime as ort  # noqa: PLC0415 - not on every device
    except ModuleNotFoundError:
        return (None,) * len(bundle.manifest.stages)
    from edgeexit.backends.onnxruntime.backend import (  # noqa: PLC0415
        UNSAFE_OPTIMISERS,
        OnnxRuntimeBackend,
        session_options,
    )

    nothing = (None,) * len(bundle.manifest.stages)
    if not isinstance(backend, OnnxRuntimeBackend):
        return nothing
    options = session_options(load_target(bundle.manifest.target))
    # Graphs are opened from memory; their weights lie in the bundle.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.path))
    tensors = dict(inputs)
    costs: list[ReadoutCost | None] = []
    each_s = seconds / len(bundle.manifest.stages)
    for stage in bundle.manifest.stages:
        names = {stage.exit.name + READOUT_SUFFIX, stage.exit.name + PROBABILITIES_SUFFIX}
        graph = (bundle.path / stage.file).read_bytes()
        try:
            whole, bare = (
                ort.InferenceSession(
                    content, options, providers=[backend.provider], disabled_optimizers=UNSAFE_OPTIMISERS
                )
                for content in (graph, without_outputs(graph, names))
            )
        except Exception:  # noqa: BLE001 - an unknown cost harms nothing, whatever ONNX Runtime has against the graph
            return (*costs, *nothing[len(costs) :])
        bindings = [_bind(session, stage, tensors, names) for session in (whole, bare)]
        costs.append(_in_turns(whole, bare, bindings, each_s))
        made = [output.name for output in bare.get_outputs()]
        tensors |= dict(zip(made, (value.numpy().copy() for value in bindings[1].get_outputs()), strict=True))
    return tuple(costs)


def _bind(session: Any, stage: StageSpec, tensors: Mapping[str, npt.NDArray[Any]], names: set[str]) -> Any:
    binding = session.io_binding()
    for name in (*stage.inputs, *stage.carry_in):
        binding.bind_cpu_input(name, np.ascontiguousarray(tensors[name]))
    binding.bind_cpu_input(TEMPERATURE_INPUT, np.ones(1, dtype=np.float32))
    for output in session.get_outputs():
        if not output.name.endswith(PROBABILITIES_SUFFIX) or output.name not in names:
            binding.bind_output(output.name, "cpu")
    return binding


def _in_turns(whole: Any, bare: Any, bindings: list[Any], seconds: float) -> ReadoutCost:
    """Run with and without, without and with, and so on; each pair is one difference."""
    pair = [(whole, bindings[0], 0), (bare, bindings[1], 1)]
    differences: list[float] = []
    warm_until = time.perf_counter() + min(WARM_UP_S, seconds / 4)
    deadline = warm_until + seconds
    turn = 0
    while len(differences) < _MIN_TURNS or time.perf_counter() < deadline:
        took = [0, 0]
        for session, binding, place in pair if turn % 2 else pair[::-1]:
            started = time.perf_counter_ns()
            session.run_with_iobinding(binding)
            took[place] = time.perf_counter_ns() - started
        turn += 1
        if time.perf_counter() >= warm_until:
            differences.append((took[0] - took[1]) * _MS_PER_NS)
    found = percentile_interval(np.array(differences), 50)
    return ReadoutCost(round(found.value, 6), (round(found.low, 6), round(found.high, 6)))
