"""The scheduler: concurrent requests share batches; failures, refusals, and closing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest

from edgeexit.errors import DataError, InferenceError, OverloadedError, PolicyError
from edgeexit.policies import KINDS
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.readout import P1
from edgeexit.runtime import Runner, make_backend
from tests.bundles import INPUT, make_bundle, make_samples
from tests.runtime.policies_of_every_kind import policies_on

EXITS = 4
NEVER_EARLY = Confidence(temperatures=(1.0,) * EXITS, thresholds=(None,) * (EXITS - 1))
FIRST_EXIT = Confidence(temperatures=(1.0,) * EXITS, thresholds=(0.0,) * (EXITS - 1))
LONG_MS = 60_000.0


class WatchedBackend:
    """A backend that records which stage ran with how many samples, and waits for `gate` before each stage."""

    def __init__(self, backend):
        self._backend = backend
        self.gate = threading.Event()
        self.gate.set()
        self.runs = []
        self.open_batches = 0
        self.outputs_read = 0
        self.fails_at = None

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def __enter__(self):
        self._backend.__enter__()
        return self

    def __exit__(self, *error):
        self._backend.__exit__(*error)

    def begin(self, inputs, *, probabilities):
        self.open_batches += 1
        return WatchedBatch(self, self._backend.begin(inputs, probabilities=probabilities))


class WatchedBatch:
    def __init__(self, backend, batch):
        self._backend, self._batch, self._stage, self._open = backend, batch, 0, True

    def __getattr__(self, name):
        return getattr(self._batch, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._backend.open_batches -= self._open
        self._open = False
        self._batch.__exit__(*error)

    def run(self, temperature):
        assert self._backend.gate.wait(30)
        if self._stage == self._backend.fails_at:
            raise InferenceError("the stage is broken")
        readout = self._batch.run(temperature)
        self._backend.runs.append((self._stage, len(readout)))
        self._stage += 1
        return readout

    def outputs(self):
        self._backend.outputs_read += 1
        return self._batch.outputs()

    def join(self, other):
        self._batch.join(other._batch)
        self._backend.open_batches -= other._open
        other._open = False


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle", exits=EXITS)


@pytest.fixture
def watched(bundle):
    return WatchedBackend(make_backend(bundle))


def one(samples, index):
    return {INPUT: samples[INPUT][index : index + 1]}


def wait_until_running(future):
    while not future.running():
        time.sleep(0.001)


@pytest.mark.parametrize("max_delay_ms", [0.0, 5.0])
@pytest.mark.parametrize("kind", KINDS)
def test_requests_of_many_threads_get_the_same_results_as_single_inferences(bundle, watched, kind, max_delay_ms):
    samples = make_samples(120, seed=3)
    with Runner(bundle) as alone:
        policy = policies_on(alone.infer_every_exit(samples, probabilities=True).readouts)[kind]
        expected = [alone.infer(one(samples, i), policy=policy) for i in range(120)]
    with Runner(bundle, backend=watched, max_delay_ms=max_delay_ms) as runner, ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda i: runner.infer_async(one(samples, i), policy=policy), range(120)))
        results = [future.result(30) for future in futures]
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.exits, right.exits)
        np.testing.assert_array_equal(result.predictions, right.predictions)
        np.testing.assert_allclose(result.outputs, right.outputs, atol=1e-5)
        np.testing.assert_allclose(result.readouts, right.readouts, atol=1e-5)
        np.testing.assert_allclose(result.scores, right.scores, atol=1e-4)
        assert len(result.stage_ms) == len(result.decide_ms) == right.exits[0] + 1
        assert result.latency_ms[0] > 0
    assert watched.open_batches == 0


def test_requests_that_wait_for_the_same_stage_run_together(bundle, watched):
    samples = make_samples(10)
    with Runner(bundle, backend=watched) as runner:
        watched.gate.clear()
        futures = [runner.infer_async(one(samples, i), policy=NEVER_EARLY) for i in range(10)]
        watched.gate.set()
        wait(futures, 30)
    assert max(count for stage, count in watched.runs if stage == 0) >= 9, "the first one may have run alone"
    assert len(watched.runs) <= 2 * EXITS


def test_raw_outputs_are_read_only_after_a_stage_at_which_a_sample_exits(bundle, watched):
    with Runner(bundle, backend=watched) as runner:
        runner.infer_async(make_samples(5), policy=NEVER_EARLY).result(30)
    assert watched.outputs_read == 1


def test_samples_that_continue_wait_for_others_for_at_most_the_delay(bundle, watched):
    samples = make_samples(40)

    def stages_run(max_delay_ms):
        watched.runs.clear()
        with Runner(bundle, backend=watched, max_delay_ms=max_delay_ms) as runner:
            watched.gate.clear()
            futures = [runner.infer_async(samples, policy=NEVER_EARLY)]
            wait_until_running(futures[0])
            futures.append(runner.infer_async({INPUT: samples[INPUT][:24]}, policy=NEVER_EARLY))
            futures.append(runner.infer_async({INPUT: samples[INPUT][:2]}, policy=FIRST_EXIT))
            watched.gate.set()
            wait(futures, 30)
        return list(watched.runs)

    assert stages_run(0.0)[:4] == [(0, 40), (1, 40), (2, 40), (3, 40)], "without a delay no batch waits"
    assert stages_run(LONG_MS) == [(0, 40), (0, 24), (1, 64), (2, 64), (3, 64), (0, 2)], (
        "the batch of 40 waits for the 24, and a full batch of 64 runs at once; another policy has a separate batch"
    )


def test_a_lone_sample_waits_for_later_ones_too_and_keeps_the_results_of_its_first_stage(bundle, watched):
    samples = make_samples(3)
    with Runner(bundle) as alone:
        expected = [alone.infer(one(samples, i), policy=NEVER_EARLY) for i in range(3)]
    with Runner(bundle, backend=watched, max_delay_ms=LONG_MS) as runner:
        watched.gate.clear()
        futures = [runner.infer_async(one(samples, 0), policy=NEVER_EARLY)]
        wait_until_running(futures[0])
        futures += [runner.infer_async(one(samples, i), policy=NEVER_EARLY) for i in (1, 2)]
        watched.gate.set()
        results = [future.result(30) for future in futures]
    assert watched.runs == [(0, 1), (0, 2), (1, 3), (2, 3), (3, 3)]
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.scores, right.scores, atol=1e-4)
        np.testing.assert_allclose(result.outputs, right.outputs, atol=1e-5)
        assert len(result.stage_ms) == len(result.decide_ms) == EXITS
    assert watched.open_batches == 0


def test_the_latency_of_a_lone_sample_includes_its_wait(bundle, watched):
    with Runner(bundle, backend=watched) as runner:
        watched.gate.clear()
        started = time.perf_counter()
        future = runner.infer_async(make_samples(1), policy=FIRST_EXIT)
        submitted = time.perf_counter()
        time.sleep(0.05)
        opened = time.perf_counter()
        watched.gate.set()
        result = future.result(30)
    assert (opened - submitted) * 1e3 <= result.latency_ms[0] <= (time.perf_counter() - started) * 1e3


def test_a_request_above_the_maximum_batch_is_split_and_returned_in_order(bundle, watched):
    samples = make_samples(150, seed=9)
    with Runner(bundle, backend=watched) as runner:
        policy = policies_on(runner.infer_every_exit(samples, probabilities=True).readouts)["beem"]
        expected = runner.infer(samples, policy=policy)
        watched.runs.clear()
        result = runner.infer_async(samples, policy=policy).result(30)
    assert max(count for _, count in watched.runs) <= 64
    np.testing.assert_array_equal(result.predictions, expected.predictions)
    np.testing.assert_array_equal(result.exits, expected.exits)


def test_the_inputs_may_be_overwritten_after_the_call(bundle, watched):
    samples = make_samples(4)
    with Runner(bundle, backend=watched) as runner:
        expected = runner.infer(samples, policy=NEVER_EARLY)
        watched.gate.clear()
        future = runner.infer_async(samples, policy=NEVER_EARLY)
        samples[INPUT][:] = 1e3
        watched.gate.set()
        np.testing.assert_allclose(future.result(30).outputs, expected.outputs, atol=1e-5)


def test_samples_beyond_max_waiting_are_refused_until_others_finish(bundle, watched):
    with Runner(bundle, backend=watched, max_waiting=8) as runner:
        watched.gate.clear()
        futures = [runner.infer_async(make_samples(4), policy=NEVER_EARLY) for _ in range(2)]
        with pytest.raises(OverloadedError, match="samples in progress: 8; 1 more would exceed max_waiting = 8"):
            runner.infer_async(make_samples(1), policy=NEVER_EARLY)
        watched.gate.set()
        wait(futures, 30)
        runner.infer_async(make_samples(8), policy=NEVER_EARLY).result(30)
        assert len(runner.infer_async(make_samples(9), policy=NEVER_EARLY).result(30).exits) == 9, (
            "a single request may exceed it"
        )


def test_a_failing_stage_fails_its_requests_and_later_requests_succeed(bundle, watched):
    with Runner(bundle, backend=watched, max_waiting=4) as runner:
        watched.fails_at = 2
        failed = runner.infer_async(make_samples(4), policy=NEVER_EARLY)
        with pytest.raises(InferenceError, match="the stage is broken"):
            failed.result(30)
        assert len(runner.infer_async(make_samples(4), policy=FIRST_EXIT).result(30).exits) == 4
        watched.fails_at = None
        assert len(runner.infer_async(make_samples(4), policy=NEVER_EARLY).result(30).exits) == 4
    assert watched.open_batches == 0


@pytest.mark.parametrize("samples", [1, 4])
def test_a_batch_that_cannot_be_closed_keeps_its_results_and_later_requests_succeed(
    bundle, watched, samples, monkeypatch
):
    closes = []

    def fail_once(batch, *_):
        closes.append(batch)
        if len(closes) == 1:
            raise InferenceError("the memory cannot be freed")

    monkeypatch.setattr(WatchedBatch, "__exit__", fail_once)
    with Runner(bundle, backend=watched) as runner:
        first = runner.infer_async(make_samples(samples), policy=NEVER_EARLY)
        later = runner.infer_async(make_samples(samples), policy=NEVER_EARLY)
        assert len(first.result(30).exits) == len(later.result(30).exits) == samples


def test_a_cancelled_request_is_not_run(bundle, watched):
    with Runner(bundle, backend=watched, max_waiting=3) as runner:
        watched.gate.clear()
        first = runner.infer_async(make_samples(1), policy=NEVER_EARLY)
        wait_until_running(first)
        second = runner.infer_async(make_samples(2), policy=NEVER_EARLY)
        assert second.cancel()
        watched.gate.set()
        first.result(30)
        assert len(runner.infer_async(make_samples(3), policy=NEVER_EARLY).result(30).exits) == 3
    assert (0, 2) not in watched.runs


def test_closing_finishes_the_submitted_requests(bundle, watched):
    with Runner(bundle, backend=watched) as runner:
        futures = [runner.infer_async(make_samples(3), policy=NEVER_EARLY) for _ in range(20)]
    assert all(len(future.result(0).exits) == 3 for future in futures)


def test_invalid_inputs_and_policies_are_refused_at_the_call(bundle, watched):
    with Runner(bundle, backend=watched, not_finite="refuse") as runner:
        with pytest.raises(DataError, match="has NaN in sample 1"):
            runner.infer_async({INPUT: np.array([[0] * 8, [np.nan] * 8], np.float32)}, policy=NEVER_EARLY)
        with pytest.raises(PolicyError, match="for 2 exits, the bundle has 4"):
            runner.infer_async(make_samples(1), policy=Confidence(temperatures=(1.0, 1.0), thresholds=(0.5,)))


def test_a_failure_to_select_rows_fails_only_the_samples_that_continue(bundle, watched, monkeypatch):
    def fail(self, rows):
        raise InferenceError("rows cannot be selected")

    samples = make_samples(20)
    with Runner(bundle, backend=watched) as runner:
        confidence = runner.infer_every_exit(samples).readouts[:, 0, P1]
        exiting, continuing = one(samples, int(confidence.argmax())), one(samples, int(confidence.argmin()))
        policy = Confidence(temperatures=(1.0,) * EXITS, thresholds=(float(confidence.max()) * 0.999, None, None))
        monkeypatch.setattr(WatchedBatch, "select_rows", fail, raising=False)
        watched.gate.clear()
        first = runner.infer_async(exiting, policy=policy)
        wait_until_running(first)
        exited, continued = (runner.infer_async(sample, policy=policy) for sample in (exiting, continuing))
        watched.gate.set()
        assert exited.result(30).exits == [0], "it had exited before"
        with pytest.raises(InferenceError, match="rows cannot be selected"):
            continued.result(30)
        assert runner.infer_async(exiting, policy=policy).result(30).exits == [0]
    assert watched.open_batches == 0


def test_closing_abandons_a_stage_that_hangs(bundle, watched, monkeypatch, caplog):
    monkeypatch.setattr("edgeexit.runtime.scheduler.CLOSE_TIMEOUT_S", 0.1)
    with Runner(bundle, backend=watched) as runner:
        watched.gate.clear()
        running = runner.infer_async(make_samples(3), policy=NEVER_EARLY)
        wait_until_running(running)
        waiting = runner.infer_async(make_samples(2), policy=NEVER_EARLY)
    for future in (running, waiting):
        with pytest.raises(
            InferenceError, match=r"a stage has not ended for 0\.1 s; the runner was closed without waiting for it"
        ):
            future.result(0)
    assert "2 requests failed" in caplog.text
    watched.gate.set()
    deadline = time.monotonic() + 30
    while watched.open_batches and time.monotonic() < deadline:
        time.sleep(0.001)
    assert watched.open_batches == 0, "a stage that returns later releases its memory"


@pytest.mark.parametrize("infer", [Runner.infer, Runner.infer_async])
def test_a_runner_that_is_not_open_refuses_samples(bundle, infer):
    runner = Runner(bundle)
    for _ in range(2):
        with pytest.raises(InferenceError, match="is closed and accepts no samples"):
            infer(runner, make_samples(1), policy=NEVER_EARLY)
        with runner:
            infer(runner, make_samples(1), policy=NEVER_EARLY)
