"""Counts the inferences of clients, and how long their parts took, as Triton's statistics extension reports them.

github.com/triton-inference-server/server, docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import time

import msgspec


class DurationTotal(msgspec.Struct):
    """A number of requests, and their total duration."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Add one request."""
        self.count += 1
        self.ns += ns


class InferenceDurations(msgspec.Struct):
    """What happened to the requests, from their last byte until their response."""

    success: DurationTotal = msgspec.field(default_factory=DurationTotal)
    fail: DurationTotal = msgspec.field(default_factory=DurationTotal)
    """Requests that got an error, whoever caused it."""
    queue: DurationTotal = msgspec.field(default_factory=DurationTotal)
    """Zero: the wait for other samples of a batch is a part of `compute_infer`."""
    compute_input: DurationTotal = msgspec.field(default_factory=DurationTotal)
    """Decoding, of successful requests."""
    compute_infer: DurationTotal = msgspec.field(default_factory=DurationTotal)
    compute_output: DurationTotal = msgspec.field(default_factory=DurationTotal)
    """Encoding."""
    cache_hit: DurationTotal = msgspec.field(default_factory=DurationTotal)
    cache_miss: DurationTotal = msgspec.field(default_factory=DurationTotal)


class ModelStatistics(msgspec.Struct):
    """What the statistics call reports of the model; only the endpoint's loop changes it."""

    name: str
    version: str
    last_inference: int = 0
    """Milliseconds since 1970; 0: there was none."""
    inference_count: int = 0
    """Samples of successful requests."""
    execution_count: int = 0
    """Batches in the endpoint's thread, and requests that the scheduler ran."""
    inference_stats: InferenceDurations = msgspec.field(default_factory=InferenceDurations)
    batch_stats: tuple[()] = ()

    def record_success(
        self, samples: int, *, started_ns: int, decoded_ns: int, inferred_ns: int, encoded_ns: int
    ) -> None:
        """Count a request by the times at which its parts ended."""
        durations = self.inference_stats
        self.inference_count += samples
        self.last_inference = time.time_ns() // 1_000_000
        durations.success.add(encoded_ns - started_ns)
        durations.compute_input.add(decoded_ns - started_ns)
        durations.compute_infer.add(inferred_ns - decoded_ns)
        durations.compute_output.add(encoded_ns - inferred_ns)

    def record_failure(self, duration_ns: int) -> None:
        """Count a request that got an error."""
        self.inference_stats.fail.add(duration_ns)
