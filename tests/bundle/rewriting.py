"""Changes a bundle of `tests.bundles` as an attacker would, who can also write a matching manifest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import external_data_helper

from edgeexit.bundle import MANIFEST, Bundle, write_manifest

WEIGHTS = "weights.bin"


def rewrite_manifest(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of the manifest."""
    path = bundle.path / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def with_matching_manifest(bundle: Bundle) -> Bundle:
    """Write the digests of the files that are in the folder now into the manifest, and open the bundle."""
    (bundle.path / MANIFEST).unlink()
    for extra in ("policy.json", "profile.json", "signature.json", "profile.sig"):
        (bundle.path / extra).unlink(missing_ok=True)
    write_manifest(bundle.path, bundle.manifest)
    return Bundle.open(bundle.path)


def with_weights_file(bundle: Bundle) -> Bundle:
    """Move the weights of all stages into `weights.bin`, as the compiler does."""
    for stage in bundle.manifest.stages:
        path = bundle.path / stage.file
        model = onnx.load(path)
        external_data_helper.convert_model_to_external_data(model, location=WEIGHTS, size_threshold=64)
        model.graph.initializer[0].doc_string = "external"
        onnx.save(model, path)  # appends to the file of weights
    return with_matching_manifest(bundle)


def change_graph(bundle: Bundle, file: str, change: Callable[[onnx.ModelProto], object]) -> Bundle:
    """Change the graph of a stage, and the manifest with it; return the bundle."""
    path = bundle.path / file
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return with_matching_manifest(bundle)


def point_to(location: str, *, offset: int = 0, length: int | None = None) -> Callable[[onnx.TensorProto], None]:
    """Return a function that makes a tensor's data external, at `location`."""

    def change(tensor: onnx.TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": location, "offset": str(offset)} | ({} if length is None else {"length": str(length)})
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return change


def copy_of(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a bundle, and open the copy."""
    folder.mkdir()
    for file in bundle.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Bundle.open(folder)
