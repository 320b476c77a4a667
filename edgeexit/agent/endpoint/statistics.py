"""Counts the inferences of clients, and how long their parts took, as Triton's statistics extension reports them.

github.com/triton-inference-server/server, docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

_NS_PER_MS: Final = 1_000_000


class DurationTotal(msgspec.Struct, frozen=True):
    """A number of requests, and their total duration."""

    count: int = 0
    ns: int = 0


class InferenceDurations(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the requests, from their last byte until their response."""

    success: DurationTotal
    fail: DurationTotal
    """Requests that got an error, whoever caused it."""
    queue: DurationTotal = DurationTotal()
    """Zero: the wait for other samples of a batch is a part of `compute_infer`."""
    compute_input: DurationTotal
    """Decoding, of successful requests."""
    compute_infer: DurationTotal
    compute_output: DurationTotal
    """Encoding."""
    cache_hit: DurationTotal = DurationTotal()
    cache_miss: DurationTotal = DurationTotal()


class StatisticsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What the statistics call reports of the model."""

    name: str
    version: str
    last_inference: int
    """Milliseconds since 1970; 0: there was none."""
    inference_count: int
    """Samples of successful requests."""
    execution_count: int
    """Batches in the endpoint's thread, and requests that the scheduler ran."""
    inference_stats: InferenceDurations
    batch_stats: tuple[()] = ()


class ModelStatistics:
    """Counts what happens to the requests of the model; only the endpoint's loop uses it.

    Attributes:
        executions: batches in the endpoint's thread, and requests that the scheduler ran.

    """

    __slots__ = (
        "_decoding_ns", "_encoding_ns", "_failing_ns", "_failures", "_inferring_ns", "_last_ns", "_samples",
        "_successes", "executions",
    )  # fmt: skip

    def __init__(self) -> None:
        self.executions = 0
        self._last_ns = 0
        self._samples = self._successes = self._failures = 0
        self._decoding_ns = self._inferring_ns = self._encoding_ns = self._failing_ns = 0

    def record_success(self, samples: int, times_ns: tuple[int, int, int], encoded_ns: int) -> None:
        """Count a request by the times (`time.perf_counter_ns`) at which it arrived and its parts ended."""
        started_ns, decoded_ns, inferred_ns = times_ns
        self._successes += 1
        self._samples += samples
        self._decoding_ns += decoded_ns - started_ns
        self._inferring_ns += inferred_ns - decoded_ns
        self._encoding_ns += encoded_ns - inferred_ns
        self._last_ns = encoded_ns

    def record_failure(self, duration_ns: int) -> None:
        """Count a request that got an error."""
        self._failures += 1
        self._failing_ns += duration_ns

    def document(self, *, name: str, version: str) -> StatisticsDocument:
        """Return the counts since the start for a model of this name and version."""
        count = self._successes
        parts_ns = (self._decoding_ns, self._inferring_ns, self._encoding_ns)
        decoding, inferring, encoding = (DurationTotal(count, ns) for ns in parts_ns)
        last_ns = time.time_ns() - (time.perf_counter_ns() - self._last_ns) if count else 0
        return StatisticsDocument(
            name=name,
            version=version,
            last_inference=last_ns // _NS_PER_MS,
            inference_count=self._samples,
            execution_count=self.executions,
            inference_stats=InferenceDurations(
                success=DurationTotal(count, sum(parts_ns)),
                fail=DurationTotal(self._failures, self._failing_ns),
                compute_input=decoding,
                compute_infer=inferring,
                compute_output=encoding,
            ),
        )
