"""Judges a policy by what it has done on this device since it was applied. Pure functions.

A policy is on trial until it is settled. It fails its trial if what its document promises would have given the counts
with a probability below one in a million.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from edgeexit.latency import bin_edge_ms
from edgeexit.policies import LatencyBound, PolicyDocument

_MAX_CHANCE: Final = 1e-6
"""Probability below which the counts contradict the document."""
_MIN_SAMPLES: Final = 100
"""Samples before a verdict, because consecutive inputs resemble each other."""


class TrialCounts(NamedTuple):
    """The samples that ran under a policy since it was applied."""

    exited: Sequence[int]
    """[K] samples that exited at each exit."""
    latency: Sequence[int]
    """Histogram of their end-to-end latencies, in the bins of `latency.bin_of`."""


def failure(document: PolicyDocument, counts: TrialCounts) -> str | None:
    """Return why a policy fails its trial, or None.

    - No sample of n exited early, although the certificate promises a fraction p of early exits: (1 - p)^n < 1e-6.
    - Of n samples, k took longer than the bound of the document, which allows a fraction q of them. By Chernoff's bound
      the probability of that is at most exp(-n KL(k/n, q)) < 1e-6, with the Kullback-Leibler divergence of Bernoulli
      distributions. A sample counts as longer if its whole bin of the histogram is above the bound.
    """
    samples, early = sum(counts.exited), sum(counts.exited[:-1])
    promised = _promised_early(document)
    if promised > 0 and early == 0 and samples >= _samples_needed(promised):
        return (
            f"none of {samples:,} samples exited early, and its certificate promises {promised:.2g} of them; "
            "were the thresholds fitted for this model and precision?"
        )
    if (bound := document.max_latency) is not None:
        timed, slow = sum(counts.latency), _slow(counts, bound)
        allowed = 1 - bound.quantile
        if timed >= _MIN_SAMPLES and timed * _divergence(slow / timed, allowed) > -math.log(_MAX_CHANCE):
            return (
                f"{slow:,} of {timed:,} samples took longer than {bound.ms:g} ms, and its document allows "
                f"{allowed:.2g} of them"
            )
    return None


def is_settled(document: PolicyDocument, counts: TrialCounts) -> bool:
    """Return True if a policy that has not failed has shown all that its document promises.

    A sample has exited early, if the certificate promises that. If there is a bound of the latency, so many samples
    have run that one longer than the bound was to be expected (q^n < 1e-6 for the quantile q), and no larger fraction
    was longer than the document allows.
    """
    if _promised_early(document) > 0 and not sum(counts.exited[:-1]):
        return False
    if (bound := document.max_latency) is None:
        return True
    timed, allowed = sum(counts.latency), 1 - bound.quantile
    return timed >= _samples_needed(allowed) and _slow(counts, bound) <= timed * allowed


def _promised_early(document: PolicyDocument) -> float:
    """Return the fraction of samples that exit before the final exit, by the certificate; 0 if it promises none."""
    certificate = document.certificate
    return 0.0 if certificate is None else min(1.0, sum(certificate.exit_rates[:-1]))


def _samples_needed(fraction: float) -> int:
    """Return the smallest n, at least 100, with (1 - fraction)^n < 1e-6."""
    if fraction >= 1:
        return _MIN_SAMPLES
    return max(_MIN_SAMPLES, math.floor(math.log(_MAX_CHANCE) / math.log1p(-fraction)) + 1)


def _slow(counts: TrialCounts, bound: LatencyBound) -> int:
    return sum(count for index, count in enumerate(counts.latency) if count and bin_edge_ms(index) >= bound.ms)


def _divergence(found: float, allowed: float) -> float:
    """Return KL(found, allowed) of two Bernoulli distributions; 0 unless `found` is above `allowed`."""
    if found <= allowed:
        return 0.0
    rest = 0.0 if found >= 1 else (1 - found) * math.log((1 - found) / (1 - allowed))
    return found * math.log(found / allowed) + rest
