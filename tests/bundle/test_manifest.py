"""Manifests that an attacker wrote: refused with one line, before anything large is read or allocated."""

import json

import pytest

from edgeexit.bundle import MANIFEST, Bundle
from edgeexit.errors import BundleError
from tests.bundle.rewriting import rewrite_manifest
from tests.bundles import make_bundle

SPEC = {"sha256": "0" * 64, "size": 1}


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def set_file(name, **changes):
    return lambda manifest: manifest["files"].__setitem__(name, SPEC | changes)


def set_stage(index, field, value):
    return lambda manifest: manifest["stages"][index].__setitem__(field, value)


def set_field(field, value):
    return lambda manifest: manifest.__setitem__(field, value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (set_file("../secret"), "files"),
        (set_file("/etc/passwd"), "files"),
        (set_file("folder/weights.bin"), "files"),
        (set_file("."), "files"),
        (set_file("a\0b"), "files"),
        (set_file("stage9.onnx\n"), "files"),
        (set_file(""), "files"),
        (set_file("x", size=-1), "size"),
        (set_file("x", size=1.5), "size"),
        (set_file("x", size=2**40 + 1), "size"),
        (set_file("x", size="1"), "size"),
        (set_file("x", sha256="0" * 63), "sha256"),
        (set_file("Stage0.onnx"), r"file name \(letter case aside\) 'stage0\.onnx' is used twice"),
        (set_file("policy.json"), r"policy\.json cannot be one of the files"),
        (set_file("Profile.SIG"), r"profile\.sig cannot be one of the files"),
        (set_file("golden.npz", size=2**31), r"golden\.npz of 2,147,483,648 bytes is larger than"),
        (set_file("stage0.onnx", size=2**32), r"stage0\.onnx of 4,294,967,296 bytes is larger than"),
        (lambda manifest: manifest["files"].update({f"f{n}": SPEC for n in range(300)}), "files"),
        (lambda manifest: manifest["files"].pop("stage1.onnx"), r"no digest of stage1\.onnx"),
        (set_stage(1, "file", "../stage1.onnx"), "file"),
        (set_stage(1, "file", "policy.json"), r"no digest of policy\.json"),
        (set_stage(1, "name", "stage0"), "stage name 'stage0' is used twice"),
        (set_stage(1, "exit", {"name": "e0", "dtype": "float32", "shape": ["batch", 4]}), "exit name 'e0'"),
        (set_stage(1, "exit", {"name": "e1", "dtype": "object", "shape": ["batch", 4]}), "dtype"),
        (set_stage(1, "exit", {"name": "e1", "dtype": "float32,float32", "shape": ["batch", 4]}), "dtype"),
        (set_stage(1, "exit", {"name": "e1", "dtype": "float32", "shape": ["batch", -4]}), "shape"),
        (set_stage(1, "exit", {"name": "e1", "dtype": "float32", "shape": ["batch", 2**62]}), "shape"),
        (set_stage(1, "macs", 2**70), "macs"),
        (set_stage(1, "carry_in", ["hidden1"]), "stage1 reads 'hidden1', which no input or earlier stage provides"),
        (set_stage(1, "inputs", ["y"]), "stage1 reads 'y'"),
        (set_field("classes", 10**9), "classes"),
        (set_field("classes", 0), "classes"),
        (set_field("classes", 5), r"exit 'e0' has shape \['batch', 4\], which is not classification into 5 classes"),
        (set_field("task", "segmentation"), "exit 'e0' .* is not segmentation into 4 classes"),
        (set_stage(1, "exit", {"name": "e1", "dtype": "float32", "shape": []}), r"exit 'e1' has shape \[\]"),
        (lambda manifest: manifest["inputs"][0].update(shape=[]), "the shape of 'x' has no batch dimension"),
        (lambda manifest: manifest["stages"].extend(manifest["stages"] * 30), "stages"),
        (set_field("stages", []), "stages"),
        (set_field("extra", 1), "extra"),
    ],
)
def test_a_hostile_manifest_is_refused_with_the_field_that_is_wrong(bundle, change, named):
    rewrite_manifest(bundle, change)
    with pytest.raises(BundleError, match=named) as caught:
        Bundle.open(bundle.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"size": ', '"size": NaN, "size": ', "malformed"),
        ('"classes": 4', '"classes": 1e999', "classes|range"),
        ('"classes": 4', '"classes": 4, "classes": 4', "key 'classes' occurs twice"),
        ('"sha256": "', f'"sha256": "{"0" * 64}", "sha256": "', "key 'sha256' occurs twice"),
        ('"model": "tiny"', '"model": "\udc80"', "malformed|invalid|UTF-8|utf-8|surrogate"),
        ('"model": "tiny"', '"model": ' + "[" * 100_000, "model"),
        (
            '"name": "stage0"',
            '"x": ' + "[" * 100_000 + "]" * 100_000 + ', "name": "stage0"',
            "nested too deeply|recursion",
        ),
    ],
    ids=["NaN", "infinity", "key twice", "nested key twice", "surrogate", "deep", "deep and unknown"],
)
def test_json_that_readers_could_understand_differently_is_refused(bundle, old, new, named):
    path = bundle.path / MANIFEST
    text = json.dumps(json.loads(path.read_text()))
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match=named):
        Bundle.open(bundle.path)
