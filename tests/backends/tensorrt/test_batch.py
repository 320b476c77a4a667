"""The TensorRT backend gives the same results as ONNX Runtime. The GPU is a stand-in; see gpu_standin.py."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgeexit.backends.tensorrt import batch_context
from edgeexit.backends.tensorrt.batch_context import padded_size
from edgeexit.errors import InferenceError
from edgeexit.policies import KINDS
from edgeexit.runtime import Runner
from tests.backends.tensorrt.gpu_machine import rtx_or_skip, standing_in
from tests.backends.tensorrt.tensorrt_runs import EXITS, assert_same, on_onnx_runtime, open_backend
from tests.bundles import INPUT, make_samples
from tests.compiler import graphs
from tests.runtime.policies_of_every_kind import policies_on

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_kind_gives_the_same_results_as_on_onnx_runtime(machine, bundle, cache_folder, reference, kind):
    samples = make_samples(64, seed=8)
    policy = policies_on(reference.infer_every_exit(samples, probabilities=True).readouts)[kind]
    with Runner(bundle, backend=open_backend(machine, bundle, cache_folder)) as runner:
        # Repeated sizes, so that graphs are captured and then launched with other samples.
        for seed, batch in enumerate((1, 7, 33, 1, 64, 7, 33, 1, 3, 33, 64, 7)):
            inputs = make_samples(batch, seed=100 + seed)
            assert_same(runner.infer(inputs, policy=policy), reference.infer(inputs, policy=policy))
    launches = machine.gpu.calls["cudaGraphLaunch"]
    assert (launches > 0) == (machine.name == "tensorrt"), "tensorrt_rtx captures graphs by itself"


def test_every_exit_matches_the_golden_samples(machine, bundle, cache_folder):
    golden = bundle.golden()
    with Runner(bundle, backend=open_backend(machine, bundle, cache_folder)) as runner:
        every = runner.infer_every_exit(golden.inputs, probabilities=True)
        hot = runner.infer_every_exit(golden.inputs, temperatures=(5.0,) * EXITS)
    for name, expected in golden.exits.items():
        np.testing.assert_allclose(every.outputs[name], expected, rtol=1e-4, atol=1e-4)
        assert every.outputs[name].dtype == np.float32
    assert every.readouts.shape == (16, EXITS, 8)
    np.testing.assert_allclose(every.readouts[:, :, 4:].sum(axis=2), 1, atol=1e-5)
    assert (hot.readouts[:, 2, 1] < every.readouts[:, 2, 1]).all()


@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 4, 6), (5, 5, 5), (7, 8, 30)])
def test_batches_outside_the_range_of_the_plans_are_split_or_padded(
    only_tensorrt, bundle, cache_folder, reference, batch
):
    policy = policies_on(reference.infer_every_exit(make_samples(64), probabilities=True).readouts)["confidence"]
    backend = open_backend(only_tensorrt, bundle, cache_folder, batch)
    assert backend.max_batch == batch[-1]
    with Runner(bundle, backend=backend) as runner:
        for count in (1, 2, 17, 41):
            inputs = make_samples(count, seed=count)
            assert_same(runner.infer(inputs, policy=policy), reference.infer(inputs, policy=policy))


TOKENS = """
<ir_version: 9, opset_import: ["": 18]>
g (int64[N,L] ids) => (float[N,3] e0, float[N,3] e1, float[N,3] e2) {
  h = Gather(table, ids)
  axis = Constant<value_ints = [1]>()
  p0 = ReduceMean<keepdims = 0>(h, axis)
  e0 = MatMul(p0, head0)
  d = MatMul(h, deep)
  t = Tanh(d)
  p1 = ReduceMean<keepdims = 0>(t, axis)
  e1 = MatMul(p1, head1)
  s = Add(t, h)
  u = Tanh(s)
  p2 = ReduceMean<keepdims = 0>(u, axis)
  e2 = MatMul(p2, head2)
}
"""
"""`ids` select rows of a table of 50 rows."""


def test_symbolic_lengths_and_float16(tmp_path, monkeypatch):
    from edgeexit.compiler import CompileOptions, compile_bundle  # noqa: PLC0415 - loads slowly

    def tokens(count, length):
        return {"ids": np.random.default_rng(length).integers(0, 50, (count, length))}

    heads = {f"head{k}": (8, 3) for k in range(3)}
    bundle = compile_bundle(
        graphs.save_graph(tmp_path / "tokens.onnx", TOKENS, table=(50, 8), deep=(8, 8), **heads),
        tmp_path / "bundle",
        CompileOptions(
            inputs=["ids:N,L:int64"],
            example=tokens(32, 6),
            precision="fp16",
            target="nvidia-desktop",
            dimensions={"L": (1, 6, 16)},
        ),
    )
    assert "float16" in {spec.dtype for stage in bundle.manifest.stages for spec in stage.carry_out}
    monkeypatch.setattr(batch_context, "_MAX_EXECUTIONS", 3)
    with standing_in(rtx_or_skip(), bundle.path, monkeypatch, name="tensorrt") as machine:
        machine.name = "tensorrt"
        with (
            on_onnx_runtime(bundle) as reference,
            Runner(bundle, backend=open_backend(machine, bundle, tmp_path / "plans")) as runner,
        ):
            policy = policies_on(reference.infer_every_exit(tokens(40, 6), probabilities=True).readouts)["confidence"]
            for count, length in itertools.product((1, 5, 5, 20, 5), (6, 16, 1)):
                inputs = tokens(count, length)
                found, expected = runner.infer(inputs, policy=policy), reference.infer(inputs, policy=policy)
                np.testing.assert_allclose(found.outputs, expected.outputs, atol=0.02)
                np.testing.assert_array_equal(found.exits, expected.exits)
                assert found.outputs.dtype == np.float32
            with pytest.raises(InferenceError, match=r"^input 'ids' has L = 17, outside 1 to 16; compile"):
                runner.infer(tokens(2, 17), policy=policy)
        assert machine.gpu.blocks == {}


@pytest.mark.parametrize("batch", [(1, 1, 32), (1, 1, 1), (4, 4, 4), (3, 8, 30)])
def test_there_are_few_batch_sizes_and_few_padding_rows(batch):
    smallest, _, largest = batch
    sizes = [padded_size(count, batch) for count in range(1, largest + 1)]
    assert all(size >= count for count, size in enumerate(sizes, start=1))
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (smallest, largest)
    assert all(size - count < 8 for count, size in enumerate(sizes, start=1))
    assert len(set(sizes)) <= 4 + largest / 8


def test_a_nan_sample_does_not_change_the_results_of_the_other_samples(machine, bundle, cache_folder, reference):
    inputs = make_samples(21, seed=3)
    policy = policies_on(reference.infer_every_exit(inputs, probabilities=True).readouts)["confidence"]
    inputs[INPUT][[0, 5, 20]] = np.nan
    with Runner(bundle, backend=open_backend(machine, bundle, cache_folder)) as runner:
        assert_same(runner.infer(inputs, policy=policy), reference.infer(inputs, policy=policy))


def test_several_threads_get_the_results_of_their_own_samples(machine, bundle, cache_folder, reference):
    policy = policies_on(reference.infer_every_exit(make_samples(64), probabilities=True).readouts)["ztw"]
    batches = [make_samples(1 + seed % 9, seed=seed) for seed in range(48)]
    with (
        Runner(bundle, backend=open_backend(machine, bundle, cache_folder)) as runner,
        ThreadPoolExecutor(6) as pool,
    ):
        for inputs, found in zip(
            batches, pool.map(lambda batch: runner.infer(batch, policy=policy), batches), strict=True
        ):
            assert_same(found, reference.infer(inputs, policy=policy))


@pytest.mark.parametrize("rows", [([0, 4, 3], [3, 1]), ([0], [0, 1, 2, 3]), ([4, 3, 2, 1], [0])])
@pytest.mark.parametrize("stages", [0, 1, 2])
def test_batches_at_the_same_stage_are_joined(machine, bundle, cache_folder, reference, rows, stages):
    first, second = make_samples(5, seed=1), make_samples(4, seed=2)
    third = make_samples(4, seed=3)
    first, second = {INPUT: first[INPUT][rows[0]]}, {INPUT: second[INPUT][rows[1]]}
    expected = reference.infer_every_exit({INPUT: np.concatenate([first[INPUT], second[INPUT]])}, probabilities=True)
    with open_backend(machine, bundle, cache_folder) as backend:
        for _ in range(3):  # the later ones run captured graphs
            mine = backend.begin(first, probabilities=True)
            theirs = backend.begin(second, probabilities=True)
            for _ in range(stages):
                mine.run(1.0), theirs.run(1.0)
            mine.join(theirs)
            allocated = machine.gpu.calls["cudaMalloc"]
            other = backend.begin(third, probabilities=False)
            assert machine.gpu.calls["cudaMalloc"] == allocated, "the joined batch has returned its memory"
            for k in range(stages, EXITS):
                np.testing.assert_allclose(mine.run(1.0), expected.readouts[:, k], atol=1e-5)
                np.testing.assert_allclose(mine.outputs(), expected.outputs[f"e{k}"], atol=1e-5)
            for batch in (mine, theirs, other):
                batch.__exit__(None, None, None)


def test_a_batch_does_not_grow_beyond_the_max_of_the_plans(machine, bundle, cache_folder):
    with open_backend(machine, bundle, cache_folder) as backend:
        mine, theirs = (backend.begin(make_samples(count), probabilities=False) for count in (40, 25))
        with mine, theirs, pytest.raises(InferenceError, match="40 and 25 samples exceed the max batch size 64"):
            mine.join(theirs)
        with pytest.raises(InferenceError, match="65 samples exceed the max batch size 64"):
            backend.begin(make_samples(65), probabilities=False)


def test_concurrent_asynchronous_requests_get_their_results(machine, bundle, cache_folder, reference):
    policy = policies_on(reference.infer_every_exit(make_samples(64), probabilities=True).readouts)["voting"]
    batches = [make_samples(1 + seed % 5, seed=seed) for seed in range(40)]
    with Runner(bundle, backend=open_backend(machine, bundle, cache_folder)) as runner:
        futures = [runner.infer_async(inputs, policy=policy) for inputs in batches]
        for inputs, future in zip(batches, futures, strict=True):
            assert_same(future.result(30), reference.infer(inputs, policy=policy))
