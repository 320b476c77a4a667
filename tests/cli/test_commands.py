"""The commands with a real bundle: their output, their files and their errors."""

import json

import numpy as np
import pytest

from edgeexit import __version__
from edgeexit.bundle import Bundle
from edgeexit.console import print_table
from edgeexit.npz import save_arrays
from edgeexit.runtime import Runner
from tests.bundles import INPUT, companions_of, make_bundle, make_samples


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", exits=3)


@pytest.fixture
def data(bundle, tmp_path):
    """Return the path of 400 samples, labelled with the final exit's predictions."""
    inputs = make_samples(400, seed=3)
    with Runner(bundle) as runner:
        labels = runner.infer_every_exit(inputs).readouts[:, -1, 0].astype(np.int64)
    path = tmp_path / "data.npz"
    save_arrays(path, {**inputs, "labels": labels})
    return path


def error_line(outcome) -> str:
    """Return the one-line error of a command."""
    assert outcome.code == 2
    assert outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_inspect_prints_stages_carry_and_proof(edgeexit, bundle):
    outcome = edgeexit("inspect", bundle.path, "--json")
    content = json.loads(outcome.out)
    assert [stage["name"] for stage in content["stages"]] == ["stage0", "stage1", "stage2"]
    assert content["carry"][0] == {"stage": "stage0", "tensor": "hidden0", "bytes_per_sample": 64}
    assert content["proof"]["samples"] == 16
    assert content["digest"] == bundle.digest
    assert "composed stages equal the full model" in edgeexit("inspect", bundle.path).out


def test_fit_evaluate_profile_and_run_work_one_after_the_other(edgeexit, bundle, data, tmp_path):
    fitted = json.loads(
        edgeexit("fit", bundle.path, "--data", data, "--policy", "beem", "--max-risk", 0.2, "--json").out
    )
    assert fitted["policy"]["policy"]["kind"] == "beem"
    assert fitted["cost_unit"] == "macs"
    assert fitted["speedup"] > 1
    assert Bundle.open(bundle.path).policy() is not None

    results = json.loads(edgeexit("evaluate", bundle.path, "--data", data, "--json").out)
    assert results["full model"]["agreement"]["value"] == 1
    assert results["beem"]["agreement"]["value"] >= 0.8
    assert results["beem"]["exit_rates"][0]["value"] + results["beem"]["exit_rates"][1]["value"] > 0

    profile = json.loads(edgeexit("profile", bundle.path, "--data", data, "--duration", 0.2, "--json").out)
    assert [stage["name"] for stage in profile["stages"]] == ["stage0", "stage1", "stage2"]
    assert profile["policy"] == "beem"
    again = ("fit", bundle.path, "--data", data, "--policy", "beem", "--max-risk", 0.2, "--json")
    forced = json.loads(edgeexit(*again, "--force").out)  # this machine may be busy
    assert forced["cost_unit"] == "ms"

    out = tmp_path / "predictions.npz"
    assert edgeexit("run", bundle.path, "--data", data, "--out", out, "--batch", 32).code == 0
    with np.load(out) as predictions:
        assert sorted(predictions.files) == ["exits", "latency_ms", "outputs", "predictions"]
        assert predictions["outputs"].shape == (400, 4)
        with np.load(data) as given:
            assert (predictions["predictions"] == given["labels"]).mean() == pytest.approx(
                results["beem"]["agreement"]["value"], abs=0.01
            )


def test_run_writes_the_companions_of_the_exit_that_each_sample_took(edgeexit, data, tmp_path):
    bundle = make_bundle(tmp_path / "companions", exits=3, companions=True)
    assert edgeexit("fit", bundle.path, "--data", data, "--max-risk", 0.2).code == 0
    out = tmp_path / "predictions.npz"
    assert edgeexit("run", bundle.path, "--data", data, "--out", out, "--batch", 30).code == 0
    with np.load(out) as found:
        every = companions_of(bundle, make_samples(400, seed=3))
        assert len(set(found["exits"])) > 1
        for name in ("corners", "feature"):
            expected = np.stack([every[k][name][row] for row, k in enumerate(found["exits"])])
            np.testing.assert_allclose(found[f"companion.{name}"], expected, atol=1e-5)
    assert edgeexit("run", bundle.path, "--data", data, "--out", out, "--every-exit").code == 0
    with np.load(out) as exits:
        assert exits.files == ["e0", "e1", "e2"]


def test_run_every_exit_writes_the_outputs_of_each_exit_under_its_name(edgeexit, bundle, data, tmp_path):
    out = tmp_path / "exits.npz"
    assert edgeexit("run", bundle.path, "--data", data, "--out", out, "--every-exit").code == 0
    with np.load(out) as exits:
        assert exits.files == ["e0", "e1", "e2"]
        assert exits["e1"].shape == (400, 4)


def test_sign_signs_a_bundle_and_trust_verifies_it(edgeexit, bundle, tmp_path):
    key = tmp_path / "maker.key"
    assert "private key" in edgeexit("keygen", key).out
    assert "signature.json is missing" in error_line(
        edgeexit("inspect", bundle.path, "--trust", key.with_suffix(".pub"))
    )
    assert edgeexit("sign", bundle.path, "--key", key).code == 0
    assert edgeexit("inspect", bundle.path, "--trust", key.with_suffix(".pub")).code == 0
    assert "exists already" in error_line(edgeexit("keygen", key))


def test_labels_of_the_wrong_length_are_a_one_line_error(edgeexit, bundle, data, tmp_path):
    with np.load(data) as given:
        save_arrays(tmp_path / "short.npz", {INPUT: given[INPUT], "labels": given["labels"][:-1]})
    line = error_line(edgeexit("fit", bundle.path, "--data", tmp_path / "short.npz"))
    assert "'labels' has shape (399,); 400 samples need labels of shape [N]" in line
    assert Bundle.open(bundle.path).policy() is None


def test_a_damaged_bundle_is_a_one_line_error_that_names_the_file(edgeexit, bundle, data):
    path = bundle.path / "stage1.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    for command in (["inspect", bundle.path], ["fit", bundle.path, "--data", data], ["profile", bundle.path]):
        assert "stage1.onnx is damaged" in error_line(edgeexit(*command))


def test_too_few_samples_and_an_unknown_policy_are_one_line_errors(edgeexit, bundle, data):
    assert "at least 3452 are needed" in error_line(edgeexit("fit", bundle.path, "--data", data, "--max-risk", 0.001))
    assert "known kinds: confidence, " in error_line(edgeexit("fit", bundle.path, "--data", data, "--policy", "none"))


def test_a_bundle_without_a_policy_is_an_error_that_names_edgeexit_fit(edgeexit, bundle, data, tmp_path):
    assert "edgeexit fit" in error_line(edgeexit("evaluate", bundle.path, "--data", data))
    assert "edgeexit fit" in error_line(edgeexit("run", bundle.path, "--data", data, "--out", tmp_path / "y.npz"))
    assert not (tmp_path / "y.npz").exists()


def test_an_output_that_cannot_be_written_is_a_one_line_error(edgeexit, bundle, data, tmp_path):
    assert edgeexit("fit", bundle.path, "--data", data, "--max-risk", 0.2).code == 0
    (tmp_path / "folder.npz").mkdir()
    line = error_line(edgeexit("run", bundle.path, "--data", data, "--out", tmp_path / "folder.npz"))
    assert "folder.npz" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "data.npz", "folder.npz"]


def test_run_refuses_to_overwrite_its_data_and_to_write_another_format(edgeexit, bundle, data, tmp_path):
    samples = data.read_bytes()
    line = error_line(edgeexit("run", bundle.path, "--data", data, "--out", data, "--every-exit"))
    assert line == f"error: --out '{data}' is the file of --data; give another name"
    assert data.read_bytes() == samples
    line = error_line(edgeexit("run", bundle.path, "--data", data, "--out", tmp_path / "y.txt", "--every-exit"))
    assert line == f"error: --out '{tmp_path / 'y.txt'}' must have the suffix .npz, e.g. predictions.npz"
    assert not (tmp_path / "y.txt").exists()


def test_a_public_key_is_not_a_private_key(edgeexit, bundle, tmp_path):
    edgeexit("keygen", tmp_path / "maker.key")
    line = error_line(edgeexit("sign", bundle.path, "--key", tmp_path / "maker.pub"))
    expected = "is not a private key; use the private key file that `edgeexit keygen` created"
    assert line == f"error: '{tmp_path / 'maker.pub'}' {expected}"


def test_fit_names_the_signature_that_it_would_void_before_any_work(edgeexit, bundle, data, tmp_path):
    edgeexit("keygen", tmp_path / "maker.key")
    edgeexit("sign", bundle.path, "--key", tmp_path / "maker.key")
    refused = edgeexit("fit", bundle.path, "--data", tmp_path / "missing.npz", "--max-risk", 0.2)
    assert "a new policy would void the signature; renew it with --key KEY" in error_line(refused)
    assert edgeexit("inspect", bundle.path, "--trust", tmp_path / "maker.pub").code == 0
    signed = edgeexit("fit", bundle.path, "--data", data, "--max-risk", 0.2, "--key", tmp_path / "maker.key")
    assert signed.code == 0
    trusted = edgeexit("inspect", bundle.path, "--trust", tmp_path / "maker.pub")
    assert trusted.code == 0
    assert "signature: valid, by a trusted key" in trusted.out
    assert edgeexit("fit", bundle.path, "--data", data, "--max-risk", 0.2, "--unsigned").code == 0
    assert "signature.json is missing" in error_line(
        edgeexit("inspect", bundle.path, "--trust", tmp_path / "maker.pub")
    )


def test_profile_names_the_signature_that_it_would_void_before_it_measures(edgeexit, bundle, tmp_path):
    edgeexit("keygen", tmp_path / "maker.key")
    edgeexit("sign", bundle.path, "--key", tmp_path / "maker.key")
    options = ("--trust", tmp_path / "maker.pub")
    assert edgeexit("profile", bundle.path, "--duration", 0.2).code == 0  # an unsigned profile voids nothing
    assert "profile.json is not signed" in edgeexit("inspect", bundle.path, *options).err
    assert edgeexit("profile", bundle.path, "--duration", 0.2, "--key", tmp_path / "maker.key").code == 0
    assert "profile.json is not signed" not in edgeexit("inspect", bundle.path, *options).err
    before = (bundle.path / "profile.json").read_bytes()
    refused = edgeexit("profile", bundle.path, "--duration", 0.2)
    assert "a new profile would void the signature" in error_line(refused)
    assert (bundle.path / "profile.json").read_bytes() == before
    both = edgeexit("profile", bundle.path, "--unsigned", "--key", tmp_path / "maker.key")
    assert "give one of the two" in error_line(both)
    assert "nothing is signed" in error_line(edgeexit("profile", bundle.path, "--stored", "--unsigned"))
    assert edgeexit("profile", bundle.path, "--duration", 0.2, "--unsigned").code == 0
    assert not bundle.has_signed_profile


def test_a_key_with_a_passphrase_gets_it_from_the_environment_or_a_file(edgeexit, bundle, tmp_path, monkeypatch):
    key = tmp_path / "maker.key"
    assert "needs a passphrase; set EDGEEXIT_KEY_PASSPHRASE_FILE" in error_line(edgeexit("keygen", key, "--passphrase"))
    monkeypatch.setenv("EDGEEXIT_KEY_PASSPHRASE", "correct horse")
    assert edgeexit("keygen", key, "--passphrase").code == 0
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in key.read_bytes()
    assert edgeexit("sign", bundle.path, "--key", key).code == 0
    monkeypatch.setenv("EDGEEXIT_KEY_PASSPHRASE", "battery")
    wrong = edgeexit("sign", bundle.path, "--key", key)
    assert "is encrypted with another passphrase" in error_line(wrong)
    assert "battery" not in wrong.err
    monkeypatch.delenv("EDGEEXIT_KEY_PASSPHRASE")
    assert "needs a passphrase" in error_line(edgeexit("sign", bundle.path, "--key", key))
    (tmp_path / "phrase").write_text("correct horse\n")
    monkeypatch.setenv("EDGEEXIT_KEY_PASSPHRASE_FILE", str(tmp_path / "phrase"))
    assert edgeexit("sign", bundle.path, "--key", key).code == 0
    assert edgeexit("inspect", bundle.path, "--trust", key.with_suffix(".pub")).code == 0


def test_markup_and_control_characters_are_escaped_in_tables(capsys):
    print_table("t", ("name", "value"), [("a", "oops [/x] \x1b[31m")])
    shown = capsys.readouterr().out
    assert "oops [/x]" in shown
    assert "\x1b" not in shown


def test_debug_raises_the_error_with_its_traceback(edgeexit, tmp_path):
    with pytest.raises(Exception, match="is not a bundle"):
        edgeexit("inspect", tmp_path, "--debug")


def test_version_prints_the_version(edgeexit):
    assert edgeexit("--version").out == f"edgeexit {__version__}\n"


def test_an_unknown_option_exits_with_2(edgeexit, bundle):
    assert edgeexit("inspect", bundle.path, "--colour").code == 2


def test_a_wrong_option_is_an_error_that_names_the_help_of_its_command(edgeexit, tmp_path):
    out = tmp_path / "bundle"
    line = error_line(edgeexit("compile", "m.onnx", "--out", out, "--precision", "int9"))
    assert "--precision 'int9' is not one of fp32, fp16, int8" in line
    assert line.endswith("see `edgeexit compile --help`")
    assert error_line(edgeexit("engines", "build", out, "--dla", -1)).endswith("see `edgeexit engines build --help`")
    assert not out.exists()


def test_a_missing_key_is_a_one_line_error(edgeexit, bundle, tmp_path):
    line = error_line(edgeexit("inspect", bundle.path, "--trust", tmp_path / "no.pub"))
    assert line == f"error: public key '{tmp_path / 'no.pub'}' cannot be read: No such file or directory"


COMMANDS = (
    *("compile", "inspect", "fit", "evaluate", "run", "profile", "agent", "targets", "quickstart", "keygen", "sign"),
    *("engines build", "engines list", "engines clear"),
    *("calibrator register", "calibrator run", "calibrator status", "calibrator history", "calibrator command"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example(edgeexit, command):
    outcome = edgeexit(*command.split(), "--help")
    assert outcome.code == 0
    assert "Usage" in outcome.out
    assert "Example" in outcome.out
