"""The output, errors and options of `edgeexit compile`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.cli.main import main
from edgeexit.errors import BundleError
from edgeexit.signing import generate_key, load_private_key, load_public_key
from tests.compiler.graphs import REUSED_EXIT, save_graph, two_heads


@pytest.fixture
def model(tmp_path):
    return save_graph(tmp_path / "mine.onnx", REUSED_EXIT, head0=(8, 3), head1=(8, 3))


@pytest.fixture
def command(monkeypatch, capfd):
    """Run `edgeexit compile ARGUMENTS...` and return exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgeexit", "compile", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capfd.readouterr()

    return run


def test_the_command_prints_a_table_of_stages_and_the_next_step(command, model, tmp_path):
    code, out, _ = command(model, "--out", tmp_path / "bundle")
    assert code == 0
    assert "stage0" in out
    assert "e1" in out
    assert f"edgeexit fit {tmp_path / 'bundle'}" in out
    assert Bundle.open(tmp_path / "bundle").manifest.model == "mine"


def test_the_bundle_follows_the_options(command, model, tmp_path):
    public = generate_key(tmp_path / "key.pem")
    samples = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=samples, labels=np.zeros(20, dtype=np.int64))
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    out = tmp_path / "bundle"
    options = ["--example", tmp_path / "samples.npz", "--class-names", tmp_path / "classes.txt", "--name", "pets"]
    options += ["--target", "arm64-cpu", "--input", "x:batch,8", "--key", tmp_path / "key.pem", "--json"]
    code, printed, error = command(model, "--out", out, *options)
    assert (code, error) == (0, "")
    report = json.loads(printed)
    manifest = report["manifest"]
    assert report["digest"] == Bundle.open(out, trusted_keys=[load_public_key(public)]).digest
    assert (manifest["model"], manifest["target"], manifest["class_names"]) == (
        "pets",
        "arm64-cpu",
        ["cat", "dog", "owl"],
    )
    assert (manifest["proof"]["samples"], manifest["proof"]["source"]) == (20, "data")


NETWORK = """
import warnings
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        warnings.warn("two lines on standard error")
        self.a, self.b = torch.nn.Linear(4, 3), torch.nn.Linear(3, 3)

    def forward(self, x):
        print("forward runs")
        y = self.a(x)
        {branch}
        return y, self.b(y)
"""


def test_an_error_in_forward_is_one_line_even_if_torch_logging_is_on(tmp_path):
    (tmp_path / "mymodel.py").write_text(NETWORK.format(branch="if y.max() > 0.5: return y, y").replace("print", "id"))
    arguments = ["compile", "mymodel.py:Net", "--input", "x:2,4", "--out", "bundle"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeexit", *arguments],
        cwd=tmp_path,
        env=os.environ | {"TORCH_LOGS": "+dynamo,+dynamic,+export,graph_code"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: forward branches on its data at mymodel.py:14; return every exit and let the policy decide\n"
    )


def test_prints_of_the_model_and_warnings_go_to_standard_error(command, tmp_path):
    (tmp_path / "mymodel.py").write_text(NETWORK.format(branch=""))
    options = ["--input", "x:2,4", "--out", tmp_path / "bundle", "--json"]
    code, out, error = command(f"{tmp_path / 'mymodel.py'}:Net", *options)
    assert code == 0
    assert json.loads(out)["manifest"]["model"] == "mymodel"
    assert "forward runs" in error
    assert "warning: input 'x': the batch is always dynamic, so 2 is ignored; write x:batch,4\n" in error
    assert "warning: the model was in training mode; it is compiled in evaluation mode\n" in error


def test_an_existing_bundle_is_replaced_only_with_force(command, model, tmp_path):
    out = tmp_path / "bundle"
    command(model, "--out", out, "--name", "first")
    code, _, error = command(model, "--out", out, "--name", "second")
    assert code == 2
    assert "exists already" in error
    assert Bundle.open(out).manifest.model == "first"
    generate_key(tmp_path / "key.pem")
    Bundle.open(out).sign(load_private_key(tmp_path / "key.pem"))
    code, _, error = command(model, "--out", out, "--name", "second", "--force")
    assert code == 0
    assert f"bundle '{out}' is signed, and the one that replaces it will not be" in error
    assert Bundle.open(out).manifest.model == "second"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--example", "none.npz"], "'none.npz' does not exist"),
        (["--class-names", "none.txt"], "class names file 'none.txt' cannot be read"),
        (["--key", "none.pem"], "private key 'none.pem' cannot be read"),
        (["--target", "toaster"], "target 'toaster' is unknown"),
        (["--input", "x:batch,9"], "input 'x' is given as batch,9"),
    ],
)
def test_a_user_error_is_one_line_and_writes_nothing(command, model, tmp_path, options, message):
    code, out, error = command(model, "--out", tmp_path / "bundle", *options)
    assert (code, out) == (2, "")
    assert message in error
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / "bundle")


def test_companions_are_given_as_names_or_patterns(command, tmp_path):
    body = "h = MatMul(x, a) e0 = Relu(h) g0 = Sigmoid(h) e1 = MatMul(h, c) g1 = Sigmoid(e1)"
    path = two_heads(tmp_path / "m.onnx", body, "float[N,3] e0, float[N,3] g0, float[N,3] e1, float[N,3] g1")
    out = tmp_path / "bundle"
    code, _, error = command(path, "--out", out, "--companion", "gate=g*", "--companion", "first=g0, g0")
    assert code == 0
    assert "companions of every exit: first, gate" in error
    second = Bundle.open(out).manifest.stages[1]
    assert (second.exit.name, second.companions["gate"].name) == ("e1", "g1")
    assert second.companions["first"].shape == ("batch", 3)
    code, _, error = command(path, "--out", tmp_path / "other", "--companion", "gate")
    assert code == 2
    assert error.startswith("error: --companion 'gate' is not NAME=OUTPUT,OUTPUT,... with one output per exit")
