"""The profiler on a real bundle: what it measures, what it makes of a board that holds back, what the wire carries."""

import msgspec
import numpy as np
import onnx
import pytest

from edgeexit.bundle import Bundle
from edgeexit.datasets import Dataset
from edgeexit.errors import DataError
from edgeexit.latency import ExitPath, LatencyProfile, LatencySummary, StageProfile
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import profile_bundle
from edgeexit.runtime.profiler import _energy_per_inference_mj
from edgeexit.runtime.profiling.onnx_pruning import without_outputs
from edgeexit.runtime.profiling.steady import MAX_RAW_SAMPLES, SteadyRun, run_steady, subsample_us
from edgeexit.telemetry import Reading
from edgeexit.wire import MAX_EXITS, decode, encode
from tests.bundles import make_bundle, make_samples
from tests.recorded_progress import RecordedProgress

POLICY = Confidence(temperatures=(1.0,) * 3, thresholds=(0.45, 0.7))


class Board:
    """A board with a rail for all of it, which tells that it is throttled from some reading on."""

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
        probe=Board(),
        progress=progress,
    )
    assert progress.steps == ["cold load and first run", "stages", "end to end", "readouts"]
    return taken


def test_every_stage_is_measured_with_its_readout_and_decision(profile):
    assert [stage.name for stage in profile.stages] == ["stage0", "stage1", "stage2"]
    for stage in profile.stages:
        assert stage.readout_interval_ms[0] <= stage.readout_ms <= stage.readout_interval_ms[1]
        assert stage.readout_ms > 0  # nine of its fourteen nodes
        assert stage.decision.mean_ms > 0
    reached = [stage.decision.samples for stage in profile.stages]
    assert reached == sorted(reached, reverse=True)  # fewer and fewer go on
    assert reached[0] == profile.end_to_end.samples


def test_the_time_of_each_exit_is_accounted_for(profile):
    assert sum(path.latency.samples for path in profile.paths) == profile.end_to_end.samples
    for depth, path in enumerate(profile.paths, 1):
        assert len(path.stages_ms) == depth
        assert path.overhead_ms > 0
        parts = sum(path.stages_ms) + path.decisions_ms + path.overhead_ms
        assert parts == pytest.approx(path.latency.mean_ms, abs=1e-5)


def test_the_exit_mix_is_that_of_the_data(bundle, profile):
    assert sum(profile.exit_rates) == pytest.approx(1)
    assert profile.exit_rates[0] > 0
    assert [path.exit for path in profile.paths] == [
        name for name, rate in zip(bundle.manifest.exits, profile.exit_rates, strict=True) if rate
    ]


def test_the_board_and_its_settings_are_told(profile):
    assert profile.telemetry.throttled is False
    assert profile.telemetry.total_rail == "ALL"
    assert profile.telemetry.power_mw["ALL"].mean == 5000
    assert profile.settings["governor"] == "performance"
    assert profile.settings["cold load"] == "files in the page cache"
    assert profile.invalid is None
    assert [phase.name for phase in profile.phases] == ["stages", "end to end"]
    assert 0 < profile.phases[0].start_s < profile.phases[0].end_s < profile.phases[1].start_s


def test_energy_is_that_of_the_readings_that_told_power():
    told = {0.5: 9000.0, 1.0: None, 2.0: 5000.0, 4.0: 5000.0, 5.0: None, 6.0: 9000.0}
    readings = [Reading(monotonic_s=at, total_mw=power) for at, power in told.items()]
    run = SteadyRun([None] * 20, start_s=1.0, end_s=5.0)
    assert _energy_per_inference_mj(readings, run) == 5000 * 4 / 20
    assert _energy_per_inference_mj(readings[:3], run) is None


def test_a_valid_profile_gives_the_costs(bundle, profile):
    bundle.write_profile(profile)
    opened = Bundle.open(bundle.path)
    assert opened.profile() == profile
    assert opened.costs().unit == "ms"
    assert opened.costs().cumulative == profile.cumulative_ms


def test_a_throttled_run_is_invalid_and_its_costs_are_not_used(bundle):
    profile = profile_bundle(bundle, seconds=0.05, probe=Board(throttled_from=2))
    assert profile.invalid == "the machine was throttled: too hot"
    assert profile.end_to_end is None
    bundle.write_profile(profile)
    assert Bundle.open(bundle.path).costs().unit == "macs"


def test_batches_are_measured_whole(bundle):
    profile = profile_bundle(
        bundle, policy=POLICY, dataset=Dataset(inputs=make_samples(50)), seconds=0.05, batch=8, probe=Board()
    )
    assert profile.batch == 8
    assert profile.paths == ()
    assert sum(profile.exit_rates) == pytest.approx(1)


@pytest.mark.parametrize(
    ("batch", "words"), [(17, "16 samples are too few for a batch of 17"), (100, "exceeds the backend's maximum")]
)
def test_batches_that_cannot_be_made_are_refused(bundle, batch, words):
    dataset = Dataset(inputs=make_samples(200)) if batch == 100 else None
    with pytest.raises(DataError, match=words):
        profile_bundle(bundle, dataset=dataset, seconds=0.05, batch=batch, probe=Board())


def test_the_wire_carries_all_but_what_is_raw(profile):
    sent = profile.without_raw()
    payload = encode(sent)
    assert decode(payload, LatencyProfile) == sent
    assert len(payload) < 8192
    assert sent.readings == sent.end_to_end_raw_us == sent.stages[0].raw_us == sent.paths[0].raw_us == ()
    assert sent.telemetry == profile.telemetry
    assert sent.cumulative_ms == profile.cumulative_ms


def test_the_deepest_model_still_fits_into_a_message():
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


def test_a_profile_of_an_earlier_version_is_read():
    """As it stands in bundles and databases: without any of the later fields."""
    summary = {"samples": 10, "mean_ms": 1.0, "p50_ms": 1.0, "p90_ms": None, "p99_ms": None}
    old = {
        "bundle": "0" * 64, "machine": "x86_64", "runtime": "onnxruntime 1.23.2", "threads": 1, "batch": 1,
        "cold_load_ms": 1.0, "first_run_ms": 1.0, "stages": [{"name": "stage0", "latency": summary, "raw_us": [1]}],
    }  # fmt: skip
    read = msgspec.json.decode(msgspec.json.encode(old), type=LatencyProfile)
    assert read.invalid is None
    assert read.telemetry is None
    assert read.cumulative_ms == (1.0,)


def test_raw_samples_are_thinned_evenly_and_kept_whole_when_few():
    assert subsample_us([0.001, 0.002]) == (1, 2)
    many = subsample_us(np.arange(10_500) / 1000)
    assert len(many) <= MAX_RAW_SAMPLES
    assert set(np.diff(many)) == {11}
    assert subsample_us([]) == ()


def test_the_warm_up_is_left_out():
    run = run_steady(0.0, lambda turn: turn)
    assert run.results == [0]
    assert run.start_s <= run.end_s


def test_a_stage_without_its_readout_is_the_stage_without_its_readout(bundle):
    """Read with the package onnx, which a device has not: exactly the readout's nodes and outputs are gone."""
    path = bundle.path / "stage2.onnx"
    whole, bare = (
        onnx.load(path),
        onnx.load_from_string(without_outputs(path.read_bytes(), {"e2.readout", "e2.probabilities"})),
    )
    assert [output.name for output in bare.graph.output] == ["e2"]
    assert [node.op_type for node in bare.graph.node] == ["Add", "Gemm", "Relu", "MatMul"]
    assert [node.op_type for node in whole.graph.node][:4] == [node.op_type for node in bare.graph.node]
    assert bare.graph.initializer == whole.graph.initializer
    assert bare.opset_import == whole.opset_import


def test_what_a_body_captures_stays():
    """A node whose result only the branch of an If reads, by capture."""
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["captured"], ["flipped"])], "then", [], [_value("flipped")]
    )
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Abs", ["x"], ["captured"]),
            onnx.helper.make_node("Exp", ["x"], ["readout"]),
            onnx.helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch),
        ],
        "g",
        [_value("x"), onnx.helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, [])],
        [_value("y"), _value("readout")],
    )
    bare = onnx.load_from_string(without_outputs(onnx.helper.make_model(graph).SerializeToString(), {"readout"}))
    onnx.checker.check_model(bare, full_check=True)
    assert [node.op_type for node in bare.graph.node] == ["Abs", "If"]


@pytest.mark.parametrize("content", [b"\x3a\xff\x01", b"\x3a", b"\x3b", b"\xff" * 3])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(ValueError, match="not an ONNX model"):
        without_outputs(content, {"readout"})


def _value(name):
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
