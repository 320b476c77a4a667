"""What a simulation needs of a bundle: its digest, its recorded samples, and the latency of its exits."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.errors import BundleError
from edgeexit.fitting import ReadoutDataset
from edgeexit.latency import bin_of
from edgeexit.policies import Policy
from edgeexit.simulate.counter_table import CounterTable, Indices
from edgeexit.simulate.options import InputDrift
from edgeexit.simulate.sample_book import PolicySamples, SampleBook
from edgeexit.wire.counter_array import Counts

_ASSUMED_MS: Final = 10.0
"""Latency of the final exit if the bundle has no profile."""
_SPREAD: Final = 0.15
_NOISE: Final = 4096
_HARD_FRACTION: Final = 0.25
_FAILURES: Final = 0.001
"""Probability that an inference fails before a report."""


class SimulatedModel(NamedTuple):
    """A bundle as simulated devices run it."""

    bundle: str
    """Digest of the bundle."""
    policy: Policy
    """The policy that ships with the bundle."""
    classes: int
    dataset: ReadoutDataset
    """Recorded readouts of the data."""
    latency_ms: tuple[float, ...]
    """[K] mean latency of a sample that exits at each exit."""


def assumed_latency_ms(macs: tuple[int, ...]) -> tuple[float, ...]:
    """Return latencies [K] for cumulative multiply-accumulates [K], if nothing was measured."""
    if not macs or macs[-1] <= 0:
        raise BundleError("the bundle counts no multiply-accumulates; measure a profile with `edgeexit profile`")
    return tuple(_ASSUMED_MS * one / macs[-1] for one in macs)


class Workload:
    """Draws samples for devices, lets the policy decide, and counts.

    Args:
        model: the bundle.
        devices: number of devices, each of its own speed.
        seed: of the random generator.

    """

    def __init__(self, model: SimulatedModel, devices: int, *, seed: int) -> None:
        self.book = SampleBook(model.dataset)
        self.random = np.random.default_rng(seed)
        self._latency_ms = np.asarray(model.latency_ms, dtype=np.float64)
        self._speed = np.exp(self.random.normal(0, _SPREAD, devices))
        self._noise = np.exp(self.random.normal(0, _SPREAD, _NOISE))
        self._drifted: tuple[float, Indices] | None = None

    def drift(self, drift: InputDrift, samples: PolicySamples) -> None:
        """From now on, let a fraction of all samples be of one kind, which the present policy defines."""
        if drift.kind == "hard":
            count = max(1, int(len(samples) * _HARD_FRACTION))
            chosen = np.argsort(samples.first_scores, kind="stable")[:count]
        else:
            (chosen,) = np.nonzero(samples.disagrees)
        if len(chosen):
            self._drifted = drift.fraction, chosen

    def draw(self, agents: int, count: int) -> Indices:
        """Return the indices [agents, count] of random samples."""
        drawn = self.random.integers(0, len(self.book), (agents, count))
        if self._drifted is not None:
            fraction, chosen = self._drifted
            replaced = self.random.random(drawn.shape) < fraction
            drawn[replaced] = chosen[self.random.integers(0, len(chosen), int(replaced.sum()))]
        return drawn

    def count(self, table: CounterTable, rows: Indices, drawn: Indices, samples: PolicySamples) -> Counts:
        """Count drawn samples [B, n] in the rows [B] of agents under one policy; return the counters [B, 62 K + 1]."""
        exits = samples.exits[drawn]
        noise = self._noise[self.random.integers(0, _NOISE, drawn.shape)]
        latency_ms: npt.NDArray[np.float64] = self._latency_ms[exits] * noise
        latency_ms *= self._speed[rows % len(self._speed)][:, None]
        failed = self.random.random(len(rows)) < _FAILURES
        if failed.any():
            table.counts[rows[failed], -1] += 1
        return table.add(rows, exits, samples.score_bins[drawn], bin_of(latency_ms))
