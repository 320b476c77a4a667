"""`edgeexit engines`, run as a program."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeexit.backends.tensorrt.engines import PlanCache
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import Manifest
from edgeexit.signing import generate_key, load_private_key
from tests.bundles import make_bundle

ROOT = Path(__file__).parent.parent.parent.parent
PROGRAM = [sys.executable, "-m", "edgeexit", "engines"]


def run(*arguments, code=0, **options):
    result = subprocess.run(
        [*PROGRAM, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )
    assert result.returncode == code, result.stderr
    return result


def restore_interrupts():
    """Restore the default for Ctrl-C: a shell makes background programs, and the programs they start, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def plans(cache):
    return {record.stage for record in PlanCache(cache).records().values()}


def unfinished(cache):
    return [path.name for path in cache.iterdir() if path.name.startswith(".") and path.name != ".lock"]


@pytest.fixture(autouse=True)
def _needs_rtx(rtx):
    pass


def test_build_list_and_clear(tiny, tmp_path):
    cache = tmp_path / "cache"
    built = run("build", tiny.path, "--for", "sm86", "--cache", cache)
    assert built.stdout.count("built") == 3
    assert built.stdout.count("not verified") == 6
    assert "warning: not verified: no SM86 GPU here" in built.stderr
    assert "ILogger" not in built.stderr
    assert "cudaError" not in built.stderr
    listed = run("list", "--cache", cache).stdout
    assert listed.count("SM86") == 3
    report = json.loads(run("build", tiny.path, "--for", "SM86", "--cache", cache, "--json").stdout)
    assert report["not_verified"] == "no SM86 GPU here"
    assert [(stage["stage"], stage["cached"]) for stage in report["stages"]] == [(f"stage{k}", True) for k in range(3)]
    assert all(Path(stage["plan"]).stat().st_size == stage["bytes"] for stage in report["stages"])
    assert "deleted 6 files" in run("clear", "--cache", cache).stdout
    assert json.loads(run("list", "--cache", cache, "--json").stdout) == {}


def test_a_wrong_option_is_one_line(tiny, tmp_path):
    cache = tmp_path / "cache"
    for options, message in (
        (["--for", "SM87"], "cannot build for SM87 with no NVIDIA GPU here; use --for with one of SM75"),
        (["--for", "SM86", "--batch", "8"], "--batch '8' is not MIN,OPT,MAX"),
        (["--for", "SM86", "--batch", "8,4,2"], "the range of 'batch' is 8,4,2"),
        (["--for", "SM86", "--dimension", "length"], "--dimension 'length' is not NAME=MIN,OPT,MAX"),
        (["--for", "SM86", "--dla", "0"], "a DLA runs fp16 and int8 only"),
    ):
        result = run("build", tiny.path, "--cache", cache, *options, code=2)
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert not cache.exists()


def test_a_signed_bundle_is_opened_only_with_its_key(tmp_path):
    bundle = make_bundle(tmp_path / "signed")
    ours, theirs = generate_key(tmp_path / "ours"), generate_key(tmp_path / "theirs")
    bundle.sign(load_private_key(tmp_path / "ours"))
    build = ("build", bundle.path, "--for", "SM86", "--cache", tmp_path / "cache", "--trust")
    run(*build, ours)
    assert "signature.json" in run(*build, theirs, code=2).stderr


def test_a_full_disk_is_one_line_and_leaves_no_partial_files(tiny, tmp_path):
    cache = tmp_path / "cache"
    limit = 'ulimit -f 300; exec "$@"'  # blocks of 1 KiB: larger files cannot be written
    result = subprocess.run(
        ["bash", "-c", limit, "bash", *PROGRAM, "build", tiny.path, "--for", "SM86", "--cache", cache],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert str(cache) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert plans(cache) == set()
    assert unfinished(cache) == []


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A bundle whose second stage takes seconds to build."""
    bundle = make_bundle(tmp_path_factory.mktemp("made") / "slow")
    path = bundle.path / "stage1.onnx"
    stage = onnx.load(path)
    generator = np.random.default_rng(0)
    value = "hidden0"
    for k in range(400):
        weight = numpy_helper.from_array(generator.standard_normal((16, 16)).astype(np.float32), f"slow{k}")
        stage.graph.initializer.append(weight)
        stage.graph.node.append(helper.make_node("MatMul", [value, weight.name], [f"slow{k}.matmul"]))
        stage.graph.node.append(helper.make_node("Softmax", [f"slow{k}.matmul"], [f"slow{k}.out"]))
        value = f"slow{k}.out"
    stage.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, ("batch", 16)))
    onnx.save(stage, path)
    return _with_new_digests(bundle)


def _with_new_digests(bundle):
    import msgspec  # noqa: PLC0415

    from edgeexit.bundle import MANIFEST, write_manifest  # noqa: PLC0415

    content = (bundle.path / MANIFEST).read_bytes()
    (bundle.path / MANIFEST).unlink()
    write_manifest(bundle.path, msgspec.json.decode(content, type=Manifest))
    return Bundle.open(bundle.path)


def test_an_interrupted_build_keeps_finished_stages_and_continues_after_them(slow, tmp_path):
    cache = tmp_path / "cache"
    arguments = ["build", slow.path, "--for", "SM86", "--cache", cache]
    command = [*PROGRAM, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts)  # noqa: PLW1509 - no threads yet
    deadline = time.monotonic() + 30
    while not list(cache.glob("stage0-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert stderr.strip() == "interrupted"
    assert plans(cache) == {"stage0"}
    assert unfinished(cache) == []
    report = json.loads(run(*arguments, "--json").stdout)
    assert [stage["cached"] for stage in report["stages"]] == [True, False, False]


def test_without_tensorrt_the_error_names_the_extras(tiny, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings'):\n    sys.modules[name] = None\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = run("build", tiny.path, "--for", "SM86", code=2, env=environment)
    assert "neither tensorrt nor tensorrt_rtx is installed" in result.stderr
    assert "edgeexit[tensorrt]" in result.stderr
    assert "edgeexit[tensorrt-rtx]" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
