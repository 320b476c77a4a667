"""Steady-state measurement: warm-up, and the selection of raw samples."""

import numpy as np

from edgeexit.runtime.profiling.steady import MAX_RAW_SAMPLES, run_steady, subsample_us


def test_raw_samples_are_evenly_spaced_and_complete_if_there_are_few():
    assert subsample_us([0.001, 0.002]) == (1, 2)
    many = subsample_us(np.arange(10_500) / 1000)
    assert len(many) <= MAX_RAW_SAMPLES
    assert set(np.diff(many)) == {11}
    assert subsample_us([]) == ()


def test_the_results_of_the_warm_up_are_dropped():
    run = run_steady(0.0, lambda turn: turn)
    assert run.results == [0]
    assert run.start_s <= run.end_s
