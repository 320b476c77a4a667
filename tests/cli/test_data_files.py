"""The data files of the commands: ignored labels are reported, and arrays that nobody reads are named."""

import json

import numpy as np
import pytest

from edgeexit.npz import save_arrays
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from tests.bundles import INPUT, make_bundle, make_samples

SAMPLES = 120
CLASSES = np.random.default_rng(0).integers(0, 4, SAMPLES)


@pytest.fixture
def bundle(tmp_path):
    made = make_bundle(tmp_path / "bundle", exits=3)
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.6, 0.7))
    made.write_policy(PolicyDocument(bundle=made.digest, revision=0, policy=policy))
    return made


@pytest.fixture
def save(tmp_path):
    def saved(**arrays):
        save_arrays(tmp_path / "data.npz", {**make_samples(SAMPLES), **arrays})
        return tmp_path / "data.npz"

    return saved


def commands(bundle, data, tmp_path):
    return {
        "fit": ("fit", bundle.path, "--data", data, "--policy", "confidence", "--max-risk", 0.9),
        "evaluate": ("evaluate", bundle.path, "--data", data),
        "run": ("run", bundle.path, "--data", data, "--out", tmp_path / "out.npz"),
        "profile": ("profile", bundle.path, "--data", data, "--duration", 0.1),
    }


def test_every_command_that_loads_a_data_file_names_the_arrays_that_it_does_not_read(edgeexit, bundle, save, tmp_path):
    for name, command in commands(bundle, save(y=CLASSES), tmp_path).items():
        outcome = edgeexit(*command, *(("--json",) if name != "run" else ()))
        assert outcome.code == 0
        [line] = [line for line in outcome.err.splitlines() if "'y' is not read" in line]
        assert ("rename it to 'labels'" in line) == (name in {"fit", "evaluate"})


def test_labels_of_an_unknown_class_are_an_error_unless_they_are_declared_as_ignored(edgeexit, bundle, save, tmp_path):
    data = save(labels=np.where(np.arange(SAMPLES) < 30, -1, CLASSES))
    for name, command in commands(bundle, data, tmp_path).items():
        if name not in {"fit", "evaluate"}:
            assert edgeexit(*command).code == 0  # the labels are not used
            continue
        refused = edgeexit(*command)
        assert refused.code == 2
        assert "label -1 is outside the model's classes, 0 to 3, in 30 of 120 samples" in refused.err
        assert refused.err.rstrip().endswith("add --ignore-label -1")
        accepted = edgeexit(*command, "--ignore-label", -1, "--ignore-label", 255, "--json")
        assert accepted.code == 0
        assert "ignored label -1: 30 of 120 samples (25 %) are left out" in accepted.err
        found = json.loads(accepted.out)
        if name == "fit":
            assert found["ignored_labels"] == {"counts": {"-1": 30}, "total": 120, "unit": "samples"}
        else:
            assert found["confidence"]["samples"] == 90


def test_a_class_that_is_declared_as_ignored_gives_a_warning(edgeexit, bundle, save):
    outcome = edgeexit("evaluate", bundle.path, "--data", save(labels=CLASSES), "--ignore-label", 3)
    assert outcome.code == 0
    assert "label 3 is ignored as declared, but it is also a class of the model" in outcome.err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("x",), "--ignore-label 'x' must be an integer, e.g. 255, or none"),
        (("255", "2.5"), "--ignore-label '2.5' must be an integer"),
        (("\u00b2",), "--ignore-label '\u00b2' must be an integer"),
        (("",), "--ignore-label '' must be an integer"),
        (("none", "255"), "--ignore-label none means that every label counts"),
    ],
)
def test_a_wrong_ignored_label_is_one_line_of_error(edgeexit, bundle, save, values, words):
    options = [text for value in values for text in ("--ignore-label", value)]
    refused = edgeexit("evaluate", bundle.path, "--data", save(labels=CLASSES), *options)
    assert refused.code == 2
    assert words in refused.err
    assert refused.err.count("\n") == 1


def test_samples_with_logits_of_nan_or_infinity_are_counted(edgeexit, bundle, save, tmp_path):
    """The inputs are finite; the first layer overflows."""
    samples = make_samples(SAMPLES)
    samples[INPUT][:3] = 3e38
    data = save(**samples, labels=CLASSES)
    words = "3 of 120 samples have logits of NaN or infinity, so their predictions mean nothing"
    evaluated = edgeexit("evaluate", bundle.path, "--data", data, "--json")
    assert f"full model: {words}" in evaluated.err
    assert json.loads(evaluated.out)["confidence"]["not_finite"] == 3
    for options in ((), ("--every-exit",), ("--batch", 7)):
        outcome = edgeexit("run", bundle.path, "--data", data, "--out", tmp_path / "out.npz", *options)
        assert outcome.code == 0
        assert words in outcome.err
