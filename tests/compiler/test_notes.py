"""What compiling tells that was not done quite as asked, or is probably not meant so."""

import pytest

from edgeexit.compiler import compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.graphs import save_graph, two_heads
from tests.compiler.networks import Dense

TWO = "e0 = MatMul(x, a) r = Relu(x) e1 = MatMul(r, b)"


@pytest.fixture
def notes_of(tmp_path):
    """Compile into one folder and return the notes."""

    def compiled(source, **options):
        notes = []
        compile_bundle(source, tmp_path / "bundle", replace=True, on_warning=notes.append, **options)
        return notes

    return compiled


def test_nothing_is_told_of_a_model_that_is_as_it_should_be(notes_of):
    assert notes_of(Dense().eval(), inputs=["input:batch,4"]) == []


def test_a_model_in_training_mode_even_in_part(notes_of):
    module = Dense().eval()
    module.layers[1].train()
    (note,) = notes_of(module, inputs=["input:n,4"])
    assert note == "the model was in training mode; it is compiled in evaluation mode"


def test_a_number_as_batch_says_what_to_write(notes_of, tmp_path):
    (note,) = notes_of(two_heads(tmp_path / "two.onnx", TWO), inputs=["x:16,8:float32"])
    assert note == "input 'x': the batch is always free, 16 is not kept; write x:batch,8:float32"


def test_a_policy_and_a_profile_that_a_replaced_bundle_had(notes_of, tmp_path):
    model = two_heads(tmp_path / "two.onnx", TWO)
    notes_of(model)
    (tmp_path / "bundle" / "policy.json").write_text("{}")
    assert notes_of(model) == ["the replaced bundle's policy is gone with it; run `edgeexit fit` on the new one"]
    (tmp_path / "bundle" / "profile.json").write_text("{}")
    assert notes_of(model) == ["the replaced bundle's profile is gone with it; run `edgeexit profile` on the new one"]


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


def test_exits_that_come_deep_first_are_refused_unless_their_order_is_given(notes_of, tmp_path):
    path = exits(tmp_path / "reversed.onnx", "deep", "shallow")
    complaint = (
        "exit 'shallow' by itself takes 88 MACs, exit 'deep' before it 152; shallow to deep they are shallow,deep"
    )
    with pytest.raises(CompileError, match=f"^{complaint}; .*--exits deep,shallow$"):
        notes_of(path)
    assert notes_of(path, exits=["deep", "shallow"]) == [complaint]
    assert notes_of(path, exits=["shallow", "deep"]) == []


def test_the_order_is_not_judged_where_an_operator_has_no_known_cost(notes_of, tmp_path):
    text = EXITS.replace("MatMul(h, head0)", "com.microsoft.FusedMatMul(h, head0)")
    text = text.replace('"": 18', '"": 18, "com.microsoft": 1')
    assert notes_of(exits(tmp_path / "foreign.onnx", "deep", "shallow", text=text)) == []
