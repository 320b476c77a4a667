"""Bundles whose model returns one logit, heads [B, C, 1, 1] or logits per token are fitted, evaluated and run."""

import json
import sys

import numpy as np
import pytest

from edgeexit.cli.main import main
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.datasets import load_dataset
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner, evaluate, record
from tests.compiler.graphs import save_graph

SAMPLES, TOKENS, PADDED = 120, 6, 2
FORMS = {
    "one logit": (
        "classification",
        "float[N,8] x",
        "e0 = MatMul(h, one) e1 = MatMul(s, one)",
        "float[N,1] e0, float[N,1] e1",
    ),
    "head of 1x1": (
        "classification",
        "float[N,8] x",
        "u = Constant<value_ints=[2, 3]>() p = MatMul(h, w) q = MatMul(s, w) e0 = Unsqueeze(p, u) e1 = Unsqueeze(q, u)",
        "float[N,3,1,1] e0, float[N,3,1,1] e1",
    ),
    "tokens": (
        "tagging",
        "float[N,T,8] x",
        "e0 = MatMul(h, w) e1 = MatMul(s, w)",
        "float[N,T,3] e0, float[N,T,3] e1",
    ),
}


@pytest.fixture(scope="module", params=FORMS.values(), ids=FORMS.keys())
def made(request, tmp_path_factory):
    """Return a bundle and a data file; the labels are the final exit's predictions, of padded tokens -100."""
    task, inputs, body, outputs = request.param
    folder = tmp_path_factory.mktemp("forms")
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => ({outputs}) {{ '
    text += f"h = MatMul(x, a) r = Relu(h) s = MatMul(r, a) {body} }}"
    path = save_graph(folder / "model.onnx", text, a=(8, 8), w=(8, 3), one=(8, 1))
    shape = (SAMPLES, TOKENS, 8) if task == "tagging" else (SAMPLES, 8)
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    bundle = compile_bundle(path, folder / "bundle", CompileOptions(example={"x": x}, task=task))
    with Runner(bundle) as runner:
        labels = runner.infer_every_exit({"x": x}).outputs["e1"].argmax(axis=1)
    if task == "tagging":
        labels = labels[:, 0]
        labels[:, -PADDED:] = -100
    np.savez(folder / "data.npz", x=x, labels=labels)
    return bundle, folder / "data.npz"


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["edgeexit", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    return capsys.readouterr().out


def test_a_bundle_is_fitted_evaluated_and_run(made, tmp_path, monkeypatch, capsys):
    bundle, data = made
    run_command(monkeypatch, capsys, "fit", bundle.path, "--data", data, "--policy", "confidence", "--max-drop", "0.3")
    results = json.loads(run_command(monkeypatch, capsys, "evaluate", bundle.path, "--data", data, "--json"))
    assert results["full model"]["accuracy"]["value"] == 1
    assert results["confidence"]["accuracy"]["value"] >= 0.6
    assert results["confidence"]["exit_rates"][0]["value"] > 0
    run_command(monkeypatch, capsys, "run", bundle.path, "--data", data, "--out", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert len(found["predictions"]) == SAMPLES
        assert found["predictions"].max() < bundle.manifest.classes


def test_tokens_without_a_label_do_not_count(made):
    bundle, data = made
    manifest = bundle.manifest
    dataset = load_dataset(data, manifest.inputs, task=manifest.task, classes=manifest.classes)
    first = Confidence(temperatures=(1.0, 1.0), thresholds=(0.0,))
    with Runner(bundle) as runner:
        found = evaluate(runner, dataset, {"first": first})["first"]
        recording = record(runner, dataset)
        outputs = runner.infer_every_exit(dataset.inputs).outputs
    early, final = (outputs[name].argmax(axis=1) for name in manifest.exits)
    counted = dataset.labels != -100
    assert found.accuracy.value == pytest.approx((early == final)[counted].mean())
    if manifest.task == "tagging":
        assert counted.sum() == SAMPLES * (TOKENS - PADDED)
        wrong = (early != final)[:, 0, :-PADDED].mean(axis=1)
        np.testing.assert_allclose(recording.errors[:, 0], wrong, atol=1e-6)
