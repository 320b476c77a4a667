"""Runs requests of several clients as one batch in the calling thread, and splits the result among them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeexit.datasets import Inputs
from edgeexit.errors import EdgeExitError
from edgeexit.policies import Policy
from edgeexit.runtime.inference import Inference
from edgeexit.runtime.runner import Runner


def infer_together(runner: Runner, requests: Sequence[Inputs], *, policy: Policy) -> list[Inference | Exception]:
    """Run requests as one batch per shape of their inputs; return the result of each request, or its error.

    A request whose inputs do not fit the model fails alone. Latencies count from the call; durations of stages are
    those of the combined batch.
    """
    results: list[Inference | Exception | None] = [None] * len(requests)
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    if len(requests) == 1:
        groups[()] = [0]
    else:
        for index, inputs in enumerate(requests):
            try:
                checked = runner.check(inputs)
            except EdgeExitError as error:  # noqa: PERF203 - it concerns one request
                results[index] = error
            else:
                groups.setdefault(tuple(array.shape[1:] for array in checked.values()), []).append(index)
    for indices in groups.values():
        try:
            parts = _infer_group(runner, [requests[index] for index in indices], policy)
        except Exception as error:  # noqa: BLE001 - the caller passes it on to the client; other requests continue
            parts = [error] * len(indices)
        for index, part in zip(indices, parts, strict=True):
            results[index] = part
    return [result for result in results if result is not None]


def _infer_group(runner: Runner, requests: Sequence[Inputs], policy: Policy) -> Sequence[Inference | Exception]:
    """Run requests with inputs of the same shapes, except for the batch dimension."""
    if len(requests) == 1:
        return [runner.infer(requests[0], policy=policy)]
    names = [spec.name for spec in runner.manifest.inputs]
    combined = {name: np.concatenate([request[name] for request in requests]) for name in names}
    return _split(runner.infer(combined, policy=policy), [len(request[names[0]]) for request in requests])


def _split(result: Inference, sizes: Sequence[int]) -> list[Inference]:
    """Return the inferences of consecutive rows of a batch. Their arrays are views of the batch's arrays."""
    parts: list[Inference] = []
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        start += size
        parts.append(
            Inference(
                predictions=result.predictions[rows],
                exits=result.exits[rows],
                outputs=result.outputs[rows],
                readouts=result.readouts[rows],
                scores=result.scores[rows],
                latency_ms=result.latency_ms[rows],
                stage_ms=result.stage_ms,
                decide_ms=result.decide_ms,
                companions=_rows_of(result.companions, rows),
            )
        )
    return parts


def _rows_of(companions: dict[str, npt.NDArray[Any]], rows: slice) -> dict[str, npt.NDArray[Any]]:
    return {name: array[rows] for name, array in companions.items()} if companions else {}
