"""Samples must not influence each other for values larger than those of the given samples either."""

import numpy as np
import pytest

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.errors import CompileError
from tests.compiler.graphs import two_heads

SMALL = {"x": np.random.default_rng(0).random((4, 8)).astype(np.float32)}
LIMIT = "limit = Constant<value_floats = [50.0]>()"
LARGEST = f"{LIMIT} a0 = Abs(x) m = ReduceMax(a0) s = Max(m, limit) h = Div(x, s)"
ANY = f"""{LIMIT} q = Greater(x, limit) i = Cast<to = 6>(q) m = ReduceMax(i) some = Cast<to = 9>(m) n = Neg(x)
h = Where(some, n, x)"""
BACKWARDS = f"""{LIMIT} one = Constant<value_ints = [-1]>() end = Constant<value_ints = [-1000]>()
zero = Constant<value_ints = [0]>() r = Slice(x, one, end, zero, one) q = Greater(x, limit) h = Where(q, r, x)"""
OWN = f"{LIMIT} last = Constant<value_ints = [1]>() a0 = Abs(x) m = ReduceMax(a0, last) s = Max(m, limit) h = Div(x, s)"


@pytest.mark.parametrize(
    ("body", "node"), [(LARGEST, "the Div of 'h'"), (ANY, "the Where of 'h'"), (BACKWARDS, "the Slice of 'r'")]
)
def test_samples_that_mix_for_large_values_only_are_an_error_with_the_node(tmp_path, body, node):
    path = two_heads(tmp_path / "m.onnx", f"e0 = MatMul(x, a) {body} e1 = MatMul(h, b)")
    with pytest.raises(CompileError, match=f"^{node} mixes .* larger or smaller than the given ones, .* 'e1'; compute"):
        compile_bundle(path, tmp_path / "bundle", CompileOptions(example=SMALL))


def test_a_limit_within_a_sample_is_accepted(tmp_path):
    path = two_heads(tmp_path / "m.onnx", f"e0 = MatMul(x, a) {OWN} e1 = MatMul(h, b)")
    assert compile_bundle(path, tmp_path / "bundle", CompileOptions(example=SMALL)).manifest.proof.samples == 4
