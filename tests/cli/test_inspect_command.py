"""`edgeexit inspect`: what is kept at every cut, what the precision cost, and the drawing."""

import json
import shutil
from xml.etree import ElementTree as ET

import msgspec
import pytest

from edgeexit.bundle import MANIFEST, Bundle
from edgeexit.bundle.manifest import BuildConfig, ExitFidelity, Fidelity, Manifest, TensorSpec
from tests.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", exits=3)


def rewrite(bundle: Bundle, **changes) -> None:
    """Change fields of a bundle's manifest."""
    manifest = msgspec.json.decode((bundle.path / MANIFEST).read_bytes(), type=Manifest)
    (bundle.path / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, **changes)))


def test_every_cut_says_what_is_kept(edgeexit, bundle):
    told = json.loads(edgeexit("inspect", bundle.path, "--json").out)
    assert told["kept"] == [
        {"after": "stage0", "tensors": ["hidden0"], "bytes_per_sample": 64},
        {"after": "stage1", "tensors": ["hidden0", "hidden1"], "bytes_per_sample": 128},
    ]
    printed = edgeexit("inspect", bundle.path).out
    assert "Kept of a sample that goes on" in printed
    assert "hidden0, hidden1 |          128" in printed


def test_a_size_known_only_at_run_time_stands_as_its_word(edgeexit, bundle):
    stages = list(bundle.manifest.stages)
    carried = TensorSpec(name="hidden0", dtype="float32", shape=("batch", "length", 4))
    stages[0] = msgspec.structs.replace(stages[0], carry_out=(carried,))
    rewrite(bundle, stages=tuple(stages))
    printed = edgeexit("inspect", bundle.path).out
    assert "16 × length" in printed  # noqa: RUF001 - what is printed
    assert "varies with the input: length" in printed
    assert json.loads(edgeexit("inspect", bundle.path, "--json").out)["kept"][0]["bytes_per_sample"] is None


def test_what_the_precision_cost_is_shown_exit_by_exit(edgeexit, bundle):
    assert "against fp32" not in edgeexit("inspect", bundle.path).out
    exits = {
        "e0": ExitFidelity(agreement=0.987, accuracy=0.9, accuracy_fp32=0.91),
        "e1": ExitFidelity(agreement=1.0),
        "e2": ExitFidelity(agreement=0.5),
    }
    rewrite(bundle, precision="int8", keep_fp32=("head[0]",), fidelity=Fidelity(samples=1234, exits=exits))
    printed = edgeexit("inspect", bundle.path).out
    assert "int8 (head[0] kept in fp32)" in printed
    assert "int8 against fp32, on 1,234 samples" in printed
    (row,) = [line for line in printed.splitlines() if "98.7 %" in line]
    assert "90.0 %" in row
    assert "91.0 %" in row
    told = json.loads(edgeexit("inspect", bundle.path, "--json").out)
    assert told["fidelity"]["exits"]["e0"]["agreement"] == 0.987
    assert told["keep_fp32"] == ["head[0]"]


def test_the_recipe_says_what_plans_are_built(edgeexit, bundle):
    build_config = BuildConfig(batch=(1, 4, 16), dimensions={"length": (1, 64, 512)}, workspace_mb=1024)
    rewrite(bundle, build_config=build_config)
    printed = edgeexit("inspect", bundle.path).out
    assert "plans: 1 to 16 samples (best at 4), 1 to 512 length (best at 64), on the GPU" in printed
    assert json.loads(edgeexit("inspect", bundle.path, "--json").out)["build_config"]["workspace_mb"] == 1024


@pytest.mark.parametrize("name", ["graph.svg", "graph.HTML"])
def test_plot_draws_the_stage_graph(edgeexit, bundle, tmp_path, name):
    outcome = edgeexit("inspect", bundle.path, "--plot", tmp_path / name)
    assert outcome.code == 0
    assert name in outcome.err
    drawn = (tmp_path / name).read_text()
    for word in ("stage0", "stage2", "e1", "kept: 64 B", "tiny"):
        assert word in drawn
    assert "p50" not in drawn
    if name.endswith("svg"):
        ET.fromstring(drawn)  # noqa: S314 - drawn a moment ago
    else:
        assert drawn.startswith("<!DOCTYPE html>")


def test_plot_shows_latency_once_profiled_and_leaves_json_clean(edgeexit, bundle, tmp_path):
    assert edgeexit("profile", bundle.path, "--duration", 0.1).code == 0
    outcome = edgeexit("inspect", bundle.path, "--plot", tmp_path / "graph.svg", "--json")
    assert json.loads(outcome.out)["profile"] is not None
    assert "p50 " in (tmp_path / "graph.svg").read_text()


def test_a_plot_of_another_kind_is_one_line_and_writes_nothing(edgeexit, bundle, tmp_path):
    outcome = edgeexit("inspect", bundle.path, "--plot", tmp_path / "graph.png")
    assert (outcome.code, outcome.out) == (2, "")
    assert "graph.png': the stage graph is drawn as .svg or .html" in outcome.err
    assert not (tmp_path / "graph.png").exists()


def test_a_plot_that_cannot_be_written_leaves_the_old_one(edgeexit, bundle, tmp_path):
    old = tmp_path / "folder.svg"
    old.mkdir()
    outcome = edgeexit("inspect", bundle.path, "--plot", old)
    assert outcome.code == 2
    assert "folder.svg" in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "folder.svg"]


def test_a_damaged_bundle_is_not_drawn(edgeexit, bundle, tmp_path):
    shutil.copy(bundle.path / "stage0.onnx", bundle.path / "stage1.onnx")
    assert edgeexit("inspect", bundle.path, "--plot", tmp_path / "graph.svg").code == 2
    assert not (tmp_path / "graph.svg").exists()
