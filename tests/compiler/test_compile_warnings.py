"""Warnings about options that are not followed exactly, and about models that are probably not as intended."""

import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler.graphs import two_heads
from tests.compiler.networks import Dense
from tests.recorded_progress import RecordedProgress

TWO = "e0 = MatMul(x, a) r = Relu(x) e1 = MatMul(r, b)"


@pytest.fixture
def warnings_of(tmp_path):
    """Compile into one folder and return the warnings."""

    def compiled(source, **options):
        progress = RecordedProgress()
        compile_bundle(source, tmp_path / "bundle", CompileOptions(**options), replace=True, progress=progress)
        return progress.warnings

    return compiled


def test_a_correct_model_gives_no_warning(warnings_of):
    assert warnings_of(Dense().eval(), inputs=["input:batch,4"]) == []


def test_a_submodule_in_training_mode_gives_a_warning(warnings_of):
    module = Dense().eval()
    module.layers[1].train()
    (warning,) = warnings_of(module, inputs=["input:n,4"])
    assert warning == "the model was in training mode; it is compiled in evaluation mode"


def test_a_number_as_batch_gives_a_warning_with_the_option_to_use(warnings_of, tmp_path):
    (warning,) = warnings_of(two_heads(tmp_path / "two.onnx", TWO), inputs=["x:16,8:float32"])
    assert warning == "input 'x': the batch is always dynamic, so 16 is ignored; write x:batch,8:float32"


def test_the_deleted_policy_and_profile_of_a_replaced_bundle_give_warnings(warnings_of, tmp_path):
    model = two_heads(tmp_path / "two.onnx", TWO)
    warnings_of(model)
    (tmp_path / "bundle" / "policy.json").write_text("{}")
    assert warnings_of(model) == [
        "the policy of the replaced bundle was deleted with it; run `edgeexit fit` on the new one"
    ]
    (tmp_path / "bundle" / "profile.json").write_text("{}")
    assert warnings_of(model) == [
        "the profile of the replaced bundle was deleted with it; run `edgeexit profile` on the new one"
    ]
