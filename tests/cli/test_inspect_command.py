"""`edgeexit inspect`: live tensors, fidelity, build config, and the drawing of the stage graph."""

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


def test_the_live_tensors_after_every_stage_are_shown(edgeexit, bundle):
    content = json.loads(edgeexit("inspect", bundle.path, "--json").out)
    assert content["live_tensors"] == [
        {"after": "stage0", "tensors": ["hidden0"], "bytes_per_sample": 64},
        {"after": "stage1", "tensors": ["hidden0", "hidden1"], "bytes_per_sample": 128},
    ]
    printed = edgeexit("inspect", bundle.path).out
    assert "Live tensors of a sample that continues" in printed
    assert "hidden0, hidden1 |          128" in printed


def test_a_symbolic_dimension_appears_by_its_name(edgeexit, bundle):
    stages = list(bundle.manifest.stages)
    carried = TensorSpec(name="hidden0", dtype="float32", shape=("batch", "length", 4))
    stages[0] = msgspec.structs.replace(stages[0], carry_out=(carried,))
    rewrite(bundle, stages=tuple(stages))
    printed = edgeexit("inspect", bundle.path).out
    assert "16 × length" in printed  # noqa: RUF001 - as printed
    assert "symbolic dimensions: length" in printed
    assert json.loads(edgeexit("inspect", bundle.path, "--json").out)["live_tensors"][0]["bytes_per_sample"] is None


def test_the_inputs_that_are_attention_masks_are_named(edgeexit, bundle):
    assert "attention masks" not in edgeexit("inspect", bundle.path).out
    rewrite(bundle, masks=(bundle.manifest.inputs[0].name,))
    printed = edgeexit("inspect", bundle.path).out
    assert f"attention masks, which may contain minus infinity: {bundle.manifest.inputs[0].name}\n" in printed


def test_companions_are_shown_with_type_shape_and_error(edgeexit, bundle, tmp_path):
    assert "companions of" not in edgeexit("inspect", bundle.path).out
    with_companions = make_bundle(tmp_path / "companions", companions=True)
    proof = msgspec.structs.replace(with_companions.manifest.proof, max_companion_error={"corners": 2e-7})
    rewrite(with_companions, proof=proof)
    printed = edgeexit("inspect", with_companions.path, "--plot", tmp_path / "stages.svg").out
    assert (
        "companions of every exit: corners float32 [batch, 2, 2] (max error 2.0e-07), feature int64 [batch]" in printed
    )
    assert "companion corners: corners1 [batch, 2, 2] float32" in (tmp_path / "stages.svg").read_text()
    assert json.loads(edgeexit("inspect", with_companions.path, "--json").out)["companions"] == ["corners", "feature"]


def test_the_fidelity_of_a_reduced_precision_is_shown_per_exit(edgeexit, bundle):
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
    content = json.loads(edgeexit("inspect", bundle.path, "--json").out)
    assert content["fidelity"]["exits"]["e0"]["agreement"] == 0.987
    assert content["keep_fp32"] == ["head[0]"]


def test_the_build_config_is_shown(edgeexit, bundle):
    build_config = BuildConfig(batch=(1, 4, 16), dimensions={"length": (1, 64, 512)}, workspace_mb=1024)
    rewrite(bundle, build_config=build_config)
    printed = edgeexit("inspect", bundle.path).out
    assert "engines: batch 1 to 16 (optimal 4), length 1 to 512 (optimal 64), on the GPU" in printed
    assert json.loads(edgeexit("inspect", bundle.path, "--json").out)["build_config"]["workspace_mb"] == 1024


@pytest.mark.parametrize("name", ["graph.svg", "graph.HTML"])
def test_plot_draws_the_stage_graph(edgeexit, bundle, tmp_path, name):
    outcome = edgeexit("inspect", bundle.path, "--plot", tmp_path / name)
    assert outcome.code == 0
    assert name in outcome.err
    drawn = (tmp_path / name).read_text()
    for word in ("stage0", "stage2", "e1", "live: 64 B", "tiny"):
        assert word in drawn
    assert "p50" not in drawn
    if name.endswith("svg"):
        ET.fromstring(drawn)  # noqa: S314 - drawn a moment ago
    else:
        assert drawn.startswith("<!DOCTYPE html>")


def test_plot_shows_latencies_after_profiling_and_keeps_json_valid(edgeexit, bundle, tmp_path):
    assert edgeexit("profile", bundle.path, "--duration", 0.1).code == 0
    outcome = edgeexit("inspect", bundle.path, "--plot", tmp_path / "graph.svg", "--json")
    assert json.loads(outcome.out)["profile"] is not None
    assert "p50 " in (tmp_path / "graph.svg").read_text()


def test_a_plot_with_another_suffix_is_an_error_in_one_line_and_writes_nothing(edgeexit, bundle, tmp_path):
    outcome = edgeexit("inspect", bundle.path, "--plot", tmp_path / "graph.png")
    assert (outcome.code, outcome.out) == (2, "")
    assert "graph.png': the stage graph is drawn as .svg or .html" in outcome.err
    assert not (tmp_path / "graph.png").exists()


def test_a_plot_that_cannot_be_written_keeps_the_old_file(edgeexit, bundle, tmp_path):
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
