"""Latency profiles as devices send them."""

from itertools import pairwise

from edgeexit.latency import LatencyProfile, StageProfile, summarise


def profile_of(bundle, cumulative_ms, **fields):
    """Return a valid profile of a bundle (its digest) in which the exits cost `cumulative_ms`."""
    stages = [after - before for before, after in pairwise((0.0, *cumulative_ms))]
    return LatencyProfile(
        bundle=bundle,
        machine="aarch64 board",
        runtime="onnxruntime",
        threads=1,
        cold_load_ms=1.0,
        first_run_ms=1.0,
        stages=tuple(StageProfile(name=f"s{k}", latency=summarise([ms] * 9)) for k, ms in enumerate(stages)),
        **{"batch": 1, **fields},
    )
