"""`edgeexit compile --mask`: fit and evaluate accept minus infinity in the mask."""

import json

from edgeexit.npz import save_arrays
from tests.attention_mask import make_masked_samples


def test_fit_and_evaluate_accept_minus_infinity_in_a_mask(edgeexit, tmp_path):
    save_arrays(tmp_path / "data.npz", make_masked_samples())
    data, bundle = tmp_path / "data.npz", tmp_path / "bundle"
    compile_ = ("compile", "tests.attention_mask:Attention", "--example", data, "--out", bundle, "--json")
    assert "compile the model with --mask mask" in edgeexit(*compile_).err
    assert json.loads(edgeexit(*compile_, "--mask", "mask").out)["manifest"]["masks"] == ["mask"]
    edgeexit("fit", bundle, "--data", data, "--policy", "confidence", "--speedup", 1.1, "--json")
    assert "confidence" in json.loads(edgeexit("evaluate", bundle, "--data", data, "--json").out)
