"""The memory that a fit needs, for every kind of policy."""

import tracemalloc

import numpy as np
import pytest

from edgeexit.fitting import FITTING_KINDS, Budget, ReadoutDataset, fit_policy
from edgeexit.fitting.kinds.eenet import training

SAMPLES, EXITS, CLASSES = 1000, 3, 2500


@pytest.fixture(scope="module")
def logits():
    random = np.random.default_rng(0)
    drawn = random.standard_normal((SAMPLES, EXITS, CLASSES), dtype=np.float32)
    drawn[np.arange(SAMPLES), :, np.arange(SAMPLES)] += [4, 5, 6]
    return drawn


@pytest.mark.parametrize("kind", FITTING_KINDS)
def test_a_fit_needs_less_memory_than_the_logits_beside_them(kind, logits, monkeypatch):
    monkeypatch.setattr(training, "_ASSIGNMENT_ITERATIONS", 3)  # they take time, not memory
    monkeypatch.setattr(training, "_MAX_ASSIGNMENT_INPUTS", 2**18)  # a limit of 32 MiB for data of any size
    tracemalloc.start()
    try:
        dataset = ReadoutDataset.from_logits(logits, costs=(1.0, 2.0, 3.0), labels=np.arange(SAMPLES))
        fit_policy(kind, dataset, Budget(cost=2.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < logits.nbytes
