"""`--mask`: a float input that is an attention mask may hold minus infinity, from the compilation to the device."""

import numpy as np
import pytest
import torch

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError, DataError
from edgeexit.runtime import Runner
from tests.attention_mask import Attention, make_masked_samples
from tests.recorded_progress import RecordedProgress


@pytest.fixture(scope="module")
def samples():
    return make_masked_samples()


@pytest.fixture(scope="module")
def progress():
    return RecordedProgress()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, samples, progress):
    options = CompileOptions(example=samples, masks=["mask"], precision="fp16")
    return compile_bundle(Attention().eval(), tmp_path_factory.mktemp("made") / "fp16", options, progress=progress)


def test_a_runner_accepts_minus_infinity_in_the_mask_and_nothing_else(bundle, samples, progress):
    assert bundle.manifest.masks == ("mask",)
    assert progress.warnings == []
    with Runner(bundle, not_finite="refuse") as runner, torch.no_grad():
        found = runner.infer_every_exit(samples)
        expected = Attention()(*map(torch.from_numpy, samples.values()))
        np.testing.assert_array_equal(found.readouts[:, -1, 0], expected[-1].argmax(1))
        for bad, text in ((np.nan, "NaN"), (np.inf, "infinity")):
            mask = samples["mask"].copy()
            mask[3, 0] = bad
            with pytest.raises(DataError, match=f"'mask' has {text} in sample 3; 1 of 64"):
                runner.infer_every_exit(samples | {"mask": mask})


def test_random_samples_of_a_mask_hold_minus_infinity(tmp_path):
    options = CompileOptions(inputs=["ids:n,12:int64", "mask:n,12"], masks=["mask"])
    bundle = compile_bundle(Attention(), tmp_path / "bundle", options)
    mask = bundle.golden().inputs["mask"]
    assert set(np.unique(mask)) == {-np.inf, 0}
    assert (mask[:, 0] == 0).all()


def test_int8_ranges_are_finite_with_minus_infinity_in_the_mask(tmp_path, samples):
    options = CompileOptions(example=samples, masks=["mask"], precision="int8")
    bundle = compile_bundle(Attention(), tmp_path / "bundle", options)
    with Runner(bundle) as runner:
        assert np.isfinite(runner.infer_every_exit(samples).readouts).all()


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ([], DataError, "'mask' has minus infinity in sample 0; .*compile the model with --mask mask if it is"),
        (["bias"], CompileError, "--mask 'bias' is no input of the model; it has 'ids', 'mask'"),
        (["ids"], CompileError, "--mask 'ids' is int64; only a floating-point input can hold minus infinity"),
    ],
)
def test_the_error_names_the_option_and_the_input(tmp_path, samples, masks, error, message):
    with pytest.raises(error, match=message):
        compile_bundle(Attention(), tmp_path / "bundle", CompileOptions(example=samples, masks=masks))


def test_a_sample_that_is_masked_entirely_is_refused_with_its_cause(tmp_path, samples):
    mask = samples["mask"].copy()
    mask[5] = -np.inf
    options = CompileOptions(example=samples | {"mask": mask}, masks=["mask"])
    with pytest.raises(CompileError, match=r"is NaN or infinite on 1 of 64 samples; .*minus infinity masks entirely"):
        compile_bundle(Attention(), tmp_path / "bundle", options)
