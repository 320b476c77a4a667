"""The command `edgeexit evaluate`: table, JSON, warnings, errors and interrupts."""

import json

import numpy as np
import pytest

from edgeexit.npz import save_arrays
from edgeexit.policies import PolicyDocument
from edgeexit.policies.beem import Beem
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.entropy import Entropy
from edgeexit.policies.voting import Voting
from edgeexit.runtime import Runner
from tests.bundles import INPUT, make_bundle, make_samples

EARLY = Confidence(temperatures=(1.0,) * 3, thresholds=(0.6, 0.7))


@pytest.fixture
def bundle(tmp_path):
    made = make_bundle(tmp_path / "bundle", exits=3)
    give(made, EARLY)
    return made


def give(bundle, policy):
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "test.npz"
    save_arrays(path, {**make_samples(150, seed=3), "labels": np.random.default_rng(1).integers(0, 4, 150)})
    return path


def test_the_table_has_every_value_with_its_interval_next_to_the_full_model(edgeexit, bundle, data):
    outcome = edgeexit("evaluate", bundle.path, "--data", data)
    assert outcome.code == 0
    assert outcome.err == ""
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in outcome.out.splitlines() if "|" in line}
    assert [cell.strip() for cell in rows[""]] == ["full model", "confidence"]
    for name in ("accuracy", "agreement with the final exit", "exit at e0", "exit at e2", "mean latency", "p50",
                 "p90", "speed-up, measured", "speed-up, in layers"):  # fmt: skip
        assert "(" in rows[name][1], name
        assert " to " in rows[name][1], name
    assert rows["agreement with the final exit"][0].strip() == "100.0 %"
    assert rows["speed-up, measured"][0].strip() == "1.00x"
    assert outcome.out.splitlines()[-1].startswith("next: edgeexit profile")


def test_every_json_value_has_an_interval(edgeexit, bundle, data):
    results = json.loads(edgeexit("evaluate", bundle.path, "--data", data, "--json").out)
    assert list(results) == ["full model", "confidence"]
    found = results["confidence"]
    latency = found["latency"]
    figures = [found[name] for name in ("accuracy", "agreement", "speedup", "layer_speedup")]
    figures += [*found["exit_rates"], *(latency[name] for name in ("mean_ms", "p50_ms", "p90_ms"))]
    for figure in figures:
        assert list(figure) == ["value", "low", "high"]
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert latency["p99_ms"] is None
    assert found["samples"] == 150


def test_two_runs_give_the_same_predictions_and_intervals(edgeexit, bundle, data):
    once, again = (json.loads(edgeexit("evaluate", bundle.path, "--data", data, "--json").out) for _ in range(2))
    for name in ("accuracy", "agreement", "exit_rates", "layer_speedup"):
        assert once["confidence"][name] == again["confidence"][name]


def test_a_voting_policy_is_evaluated_on_its_votes(edgeexit, bundle, data):
    """With two votes the newest one decides, so the predictions at e1 are those of e1 itself."""
    give(bundle, Voting(temperatures=(1.0,) * 3, thresholds=(None, 0.5)))
    with Runner(bundle) as runner, np.load(data) as given:
        top1 = runner.infer_every_exit({INPUT: given[INPUT]}).readouts[:, :, 0]
        accuracy = np.mean(top1[:, 1] == given["labels"])
    results = json.loads(edgeexit("evaluate", bundle.path, "--data", data, "--json").out)
    assert results["voting"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert results["voting"]["agreement"]["value"] == pytest.approx(np.mean(top1[:, 1] == top1[:, 2]))


def test_unknown_values_are_dashes(edgeexit, bundle, tmp_path):
    save_arrays(tmp_path / "few.npz", make_samples(20))
    out = edgeexit("evaluate", bundle.path, "--data", tmp_path / "few.npz").out
    rows = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in out.splitlines() if "|" in line}
    assert rows["accuracy"] == rows["p90"] == "-"
    assert rows["p50"] != "-"


def test_unreachable_exits_give_one_warning(edgeexit, bundle, data):
    policy = Beem(temperatures=(1.0,) * 3, thresholds=(0.9, 1.8), weights=(0.5, 1.0, 1.0))
    give(bundle, policy)
    for arguments in (["evaluate", bundle.path, "--data", data], ["inspect", bundle.path]):
        outcome = edgeexit(*arguments)
        assert outcome.code == 0
        (line,) = outcome.err.splitlines()
        assert "'e0' (threshold 0.9, highest possible score 0.5)" in line
        assert "'e1' (threshold 1.8, highest possible score 1.5)" in line
    assert json.loads(edgeexit("evaluate", bundle.path, "--data", data, "--json").out)["beem"]["samples"] == 150
    give(bundle, EARLY)
    assert edgeexit("inspect", bundle.path).err == ""


def test_ctrl_c_ends_the_command_without_a_traceback(edgeexit, bundle, data, monkeypatch):
    calls = []

    def infer(self, inputs, *, policy):
        calls.append(1)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return original(self, inputs, policy=policy)

    original = Runner.infer
    monkeypatch.setattr(Runner, "infer", infer)
    outcome = edgeexit("evaluate", bundle.path, "--data", data)
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "interrupted\n")


def test_a_policy_for_another_number_of_classes_is_refused(edgeexit, bundle, data):
    give(bundle, Entropy(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5), classes=9))
    outcome = edgeexit("evaluate", bundle.path, "--data", data)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert "policy.json: policy 'entropy' is for 9 classes, the bundle has 4" in line
