"""The profiler on a real bundle: measurements, throttled boards, and the message form of a profile."""

import msgspec
import pytest

from edgeexit.bundle import Bundle
from edgeexit.datasets import Dataset
from edgeexit.errors import DataError
from edgeexit.latency import ExitPath, LatencyProfile, LatencySummary, StageProfile
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import profile_bundle
from edgeexit.runtime.profiler import _energy_per_inference_mj
from edgeexit.runtime.profiling.steady import SteadyRun
from edgeexit.telemetry import Reading
from edgeexit.wire import MAX_EXITS, decode, encode
from tests.bundles import make_bundle, make_samples
from tests.quiet_profile import quiet
from tests.recorded_progress import RecordedProgress

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(0.45, 0.7))


class FakeProbe:
    """A probe with a rail for the whole board, which is throttled from a given reading on."""

    name = "test"
    total_rail = "ALL"

    def __init__(self, *, throttled_from=None):
        self.readings = 0
        self._throttled_from = throttled_from

    def read(self):
        self.readings += 1
        throttled = self._throttled_from is not None and self.readings >= self._throttled_from
        return Reading(
            monotonic_s=float(self.readings),
            power_mw={"ALL": 5000.0},
            total_mw=5000.0,
            throttled=throttled,
            reasons=("too hot",) if throttled else (),
        )

    def settings(self):
        return {"governor": "performance"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="module")
def profile(bundle):
    progress = RecordedProgress()
    taken = profile_bundle(
        bundle,
        policy=POLICY,
        dataset=Dataset(inputs=make_samples(50)),
        seconds=0.3,
        probe=FakeProbe(),
        progress=progress,
    )
    assert progress.steps == ["cold load and first run", "stages", "end to end", "readouts"]
    return taken


def test_every_stage_is_measured_with_its_readout_and_decision(profile):
    assert [stage.name for stage in profile.stages] == ["stage0", "stage1", "stage2"]
    for stage in profile.stages:
        assert stage.readout_interval_ms[0] <= stage.readout_ms <= stage.readout_interval_ms[1]
        assert stage.readout_ms > 0  # the readout has nine of the fourteen nodes
        assert stage.decision.mean_ms > 0
    reached = [stage.decision.samples for stage in profile.stages]
    assert reached == sorted(reached, reverse=True)  # fewer samples reach later stages
    assert reached[0] == profile.end_to_end.samples


def test_the_parts_of_each_exit_add_up_to_its_latency(profile):
    assert sum(path.latency.samples for path in profile.paths) == profile.end_to_end.samples
    for depth, path in enumerate(profile.paths, 1):
        assert len(path.stages_ms) == depth
        assert path.overhead_ms > 0
        parts = sum(path.stages_ms) + path.decisions_ms + path.overhead_ms
        assert parts == pytest.approx(path.latency.mean_ms, abs=1e-5)


def test_the_exit_rates_match_the_paths(bundle, profile):
    assert sum(profile.exit_rates) == pytest.approx(1)
    assert profile.exit_rates[0] > 0
    assert [path.exit for path in profile.paths] == [
        name for name, rate in zip(bundle.manifest.exits, profile.exit_rates, strict=True) if rate
    ]


def test_the_profile_has_the_board_s_telemetry_and_settings(profile):
    assert profile.telemetry.throttled is False
    assert profile.telemetry.total_rail == "ALL"
    assert profile.telemetry.power_mw["ALL"].mean == 5000
    assert profile.settings["governor"] == "performance"
    assert profile.settings["cold load"] == "files in the page cache"
    assert not any("throttled" in reason for reason in profile.invalid)
    assert profile.load.seconds >= 0.6
    assert profile.load.own_cores > 0
    assert [phase.name for phase in profile.phases] == ["stages", "end to end"]
    assert 0 < profile.phases[0].start_s < profile.phases[0].end_s < profile.phases[1].start_s


def test_energy_uses_the_readings_that_have_power():
    power_at = {0.5: 9000.0, 1.0: None, 2.0: 5000.0, 4.0: 5000.0, 5.0: None, 6.0: 9000.0}
    readings = [Reading(monotonic_s=at, total_mw=power) for at, power in power_at.items()]
    run = SteadyRun([None] * 20, start_s=1.0, end_s=5.0)
    assert _energy_per_inference_mj(readings, run) == 5000 * 4 / 20
    assert _energy_per_inference_mj(readings[:3], run) is None


def test_a_valid_profile_gives_the_costs_of_the_bundle(bundle, profile):
    profile = quiet(profile)
    bundle.write_profile(profile)
    opened = Bundle.open(bundle.path)
    assert opened.profile() == profile
    assert opened.costs().rejected == ()
    assert opened.costs().unit == "ms"
    assert opened.costs().cumulative == profile.cumulative_ms


def test_the_profile_of_a_throttled_board_is_invalid_and_gives_no_costs(bundle):
    profile = profile_bundle(bundle, seconds=0.05, probe=FakeProbe(throttled_from=2))
    assert profile.invalid[0] == "the machine was throttled: too hot"
    assert profile.end_to_end is None
    bundle.write_profile(profile)
    opened = Bundle.open(bundle.path)
    assert opened.costs().unit == "macs"
    assert opened.costs().rejected == profile.invalid
    assert opened.costs(force=True) == ("ms", profile.cumulative_ms, ())


def test_a_profile_of_batches_has_no_paths(bundle):
    profile = profile_bundle(
        bundle, policy=POLICY, dataset=Dataset(inputs=make_samples(50)), seconds=0.05, batch=8, probe=FakeProbe()
    )
    assert profile.batch == 8
    assert profile.paths == ()
    assert sum(profile.exit_rates) == pytest.approx(1)


@pytest.mark.parametrize(
    ("batch", "words"),
    [(17, "the number of samples, 16, is too small for a batch of 17"), (100, "exceeds the backend's maximum")],
)
def test_an_impossible_batch_size_is_refused(bundle, batch, words):
    dataset = Dataset(inputs=make_samples(200)) if batch == 100 else None
    with pytest.raises(DataError, match=words):
        profile_bundle(bundle, dataset=dataset, seconds=0.05, batch=batch, probe=FakeProbe())


def test_the_message_has_everything_except_raw_samples(profile):
    sent = profile.without_raw()
    payload = encode(sent)
    assert decode(payload, LatencyProfile) == sent
    assert len(payload) < 8192
    assert sent.readings == sent.end_to_end_raw_us == sent.stages[0].raw_us == sent.paths[0].raw_us == ()
    assert sent.telemetry == profile.telemetry
    assert sent.cumulative_ms == profile.cumulative_ms


def test_the_profile_of_the_deepest_model_fits_into_a_message():
    summary = LatencySummary(samples=123456, mean_ms=12.345678, p50_ms=12.345678, p90_ms=12.345678, p99_ms=12.345678)
    stages = tuple(
        StageProfile(
            name=f"stage{k}",
            latency=summary,
            readout_ms=0.012345,
            readout_interval_ms=(0.012345, 0.023456),
            decision=summary,
        )
        for k in range(MAX_EXITS)
    )
    paths = tuple(
        ExitPath(
            exit=f"exit{k}", latency=summary, stages_ms=(12.345678,) * (k + 1), decisions_ms=0.123456, overhead_ms=0.123
        )
        for k in range(MAX_EXITS)
    )
    encode(
        LatencyProfile(
            bundle="0" * 64, machine="m" * 100, runtime="r" * 100, threads=4, batch=1, cold_load_ms=1.0,
            first_run_ms=1.0, stages=stages, end_to_end=summary, policy="eenet", paths=paths,
            exit_rates=(1 / 3,) * MAX_EXITS,
        )
    )  # fmt: skip


def test_a_profile_of_an_earlier_version_can_be_read():
    """Bundles and databases hold profiles without the later fields."""
    summary = {"samples": 10, "mean_ms": 1.0, "p50_ms": 1.0, "p90_ms": None, "p99_ms": None}
    old = {
        "bundle": "0" * 64, "machine": "x86_64", "runtime": "onnxruntime 1.23.2", "threads": 1, "batch": 1,
        "cold_load_ms": 1.0, "first_run_ms": 1.0, "stages": [{"name": "stage0", "latency": summary, "raw_us": [1]}],
    }  # fmt: skip
    read = msgspec.json.decode(msgspec.json.encode(old), type=LatencyProfile)
    assert read.invalid == ()
    assert read.telemetry is None
    assert read.cumulative_ms == (1.0,)


def test_a_profile_with_the_real_probe_is_stored_and_read_again(bundle):
    profile = profile_bundle(bundle, policy=POLICY, dataset=Dataset(inputs=make_samples(50)), seconds=0.2)
    assert [stage.name for stage in profile.stages] == ["stage0", "stage1", "stage2"]
    assert list(profile.cumulative_ms) == sorted(profile.cumulative_ms)
    assert profile.exit_rates is not None
    assert sum(profile.exit_rates) == pytest.approx(1)
    assert len(profile.stages[0].raw_us) <= 1000
    bundle.write_profile(profile)
    assert Bundle.open(bundle.path).profile() == profile
