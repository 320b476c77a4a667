"""Warnings about options that are not followed exactly, and about models that are probably not as intended."""

import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.graphs import save_graph, two_heads
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


EXITS = """
<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (OUTPUTS) {
  h = MatMul(x, trunk0)
  shallow = MatMul(h, head0)
  r = Relu(h)
  g = MatMul(r, trunk1)
  t = Tanh(g)
  deep = MatMul(t, head1)
}
"""


def exits(path, *outputs, text=EXITS):
    text = text.replace("OUTPUTS", ", ".join(f"float[N,3] {name}" for name in outputs))
    return save_graph(path, text, trunk0=(8, 8), trunk1=(8, 8), head0=(8, 3), head1=(8, 3))


def test_exits_that_are_deep_first_are_rejected_unless_their_order_is_given(warnings_of, tmp_path):
    path = exits(tmp_path / "reversed.onnx", "deep", "shallow")
    message = (
        "exit 'shallow' needs 88 MACs, fewer than the 152 of exit 'deep' before it; "
        "shallow to deep, the exits are shallow,deep"
    )
    with pytest.raises(CompileError, match=f"^{message}; .*--exits deep,shallow$"):
        warnings_of(path)
    assert warnings_of(path, exits=["deep", "shallow"]) == [message]
    assert warnings_of(path, exits=["shallow", "deep"]) == []


def test_the_order_is_not_checked_if_an_operator_has_unknown_cost(warnings_of, tmp_path):
    text = EXITS.replace("MatMul(h, head0)", "com.microsoft.FusedMatMul(h, head0)")
    text = text.replace('"": 18', '"": 18, "com.microsoft": 1')
    assert warnings_of(exits(tmp_path / "foreign.onnx", "deep", "shallow", text=text)) == []
