"""Graphs that name files: a runtime opens none of them, and a graph that names another file is refused before."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeexit.bundle.stage_graphs import copy_stage_files, read_stage_graph
from edgeexit.errors import BundleError
from edgeexit.runtime import Runner
from tests.bundle.rewriting import WEIGHTS, change_graph, point_to, with_matching_manifest, with_weights_file
from tests.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path):
    return with_weights_file(make_bundle(tmp_path / "bundle"))


def first_weight(change):
    return lambda model: change(next(iter(model.graph.initializer)))


def in_constant(change):
    def add(model):
        tensor = numpy_helper.from_array(np.ones(4, np.float32), "secret")
        change(tensor)
        model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))

    return add


def in_subgraph(change):
    def add(model):
        tensor = numpy_helper.from_array(np.ones(4, np.float32), "secret")
        change(tensor)
        branch = helper.make_graph([], "branch", [], [], [tensor])
        model.graph.node.append(helper.make_node("If", ["c"], ["r"], then_branch=branch, else_branch=branch))

    return add


def in_sparse(change):
    def add(model):
        values = numpy_helper.from_array(np.ones(4, np.float32), "secret")
        change(values)
        indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "indices")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))

    return add


def in_function(change):
    def add(model):
        tensor = numpy_helper.from_array(np.ones(4, np.float32), "secret")
        change(tensor)
        node = helper.make_node("Constant", [], ["y"], value=tensor)
        model.functions.append(helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 17)]))

    return add


def engine_node(model):
    node = helper.make_node("EPContext", [], ["e"], domain="com.microsoft", ep_cache_context="../engine.bin")
    model.graph.node.append(node)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (first_weight(point_to("../secret")), r"is in file '\.\./secret', which the manifest does not list"),
        (first_weight(point_to("/etc/passwd")), "is in file '/etc/passwd'"),
        (first_weight(point_to("other.bin")), r"is in file 'other\.bin'"),
        (first_weight(point_to("./" + WEIGHTS)), r"is in file '\./weights\.bin'"),
        (first_weight(point_to("")), "is in file ''"),
        (first_weight(point_to("*/_ORT_MEM_ADDR_/*", offset=4096)), "_ORT_MEM_ADDR_"),
        (first_weight(point_to(WEIGHTS, offset=-64)), "negative size"),
        (first_weight(point_to(WEIGHTS, offset=1 << 40)), r"does not fit weights\.bin"),
        (first_weight(point_to(WEIGHTS, length=4)), r"does not fit weights\.bin"),
        (first_weight(lambda tensor: tensor.external_data.add(key="location", value="x")), "contradictory"),
        (first_weight(lambda tensor: setattr(tensor, "data_type", TensorProto.STRING)), "type 8 of ONNX"),
        (first_weight(lambda tensor: tensor.dims.extend([1 << 40, 1 << 40])), "does not fit"),
        (in_constant(point_to(WEIGHTS)), "tensor 'secret' is in a file, but is not an initializer"),
        (in_subgraph(point_to("/etc/passwd")), "tensor 'secret' is in a file"),
        (in_sparse(point_to("/etc/passwd")), "tensor 'secret' is in a file"),
        (in_function(point_to("/etc/passwd")), "tensor 'secret' is in a file"),
        (engine_node, "operator EPContext, which reads a file"),
    ],
)
def test_a_graph_that_names_another_file_is_refused_before_onnx_runtime_reads_it(bundle, monkeypatch, change, named):
    changed = change_graph(bundle, "stage1.onnx", change)
    create = onnxruntime.InferenceSession.__init__
    graphs = []

    def record(self, graph, *arguments, **options):
        graphs.append(graph)
        create(self, graph, *arguments, **options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", record)
    with pytest.raises(BundleError, match=named):
        Runner(changed).__enter__()
    assert changed.read("stage1.onnx") not in graphs


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x00\x00\x00ORTM" + bytes(64)])
def test_a_stage_in_another_format_is_refused(bundle, content):
    (bundle.path / "stage1.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"stage1\.onnx"):
        Runner(with_matching_manifest(bundle)).__enter__()


def test_a_copy_for_a_parser_that_opens_files_has_the_graphs_and_their_weights_only(bundle, tmp_path):
    (tmp_path / "copy").mkdir()
    copy_stage_files(bundle, tmp_path / "copy")
    copied = {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()}
    expected = [*(stage.file for stage in bundle.manifest.stages), WEIGHTS]
    assert copied == {name: (bundle.path / name).read_bytes() for name in expected}


def test_the_weights_of_a_graph_are_found_with_their_places(bundle):
    stage = bundle.manifest.stages[0]
    found = {tensor.name: tensor for tensor in read_stage_graph(bundle, stage).weights}
    model = onnx.load(bundle.path / stage.file)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    content = bundle.read(WEIGHTS)
    assert "hidden_weight" in found
    for name, tensor in found.items():
        stored = np.frombuffer(content[tensor.offset :][: tensor.length], values[name].dtype).reshape(tensor.shape)
        assert np.array_equal(stored, values[name])
