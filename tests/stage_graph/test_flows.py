"""The flows between stages: grouped by source and target, and their size in bytes per sample."""

import pytest

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.stage_graph import bytes_per_sample_text, stage_flows
from tests.stage_graph.manifests import IMAGE, make_dense, make_manifest


def tensor(name, *shape, dtype="float32"):
    return TensorSpec(name=name, dtype=dtype, shape=("batch", *shape))


def test_flows_are_grouped_by_source_and_may_skip_stages():
    mask = tensor("mask", 4, dtype="int64")
    a, b, c = tensor("a", 2), tensor("b", 3), tensor("c", 5)
    manifest = make_manifest([["image"], ["a", "b"], ["mask", "c", "a"]], inputs=(IMAGE, mask), carried=[[a, b], [c]])
    assert [(flow.source, flow.target, [made.name for made in flow.tensors]) for flow in stage_flows(manifest)] == [
        (None, 0, ["image"]),
        (0, 1, ["a", "b"]),
        (None, 2, ["mask"]),
        (0, 2, ["a"]),
        (1, 2, ["c"]),
    ]


def test_a_dense_graph_has_a_flow_for_every_pair():
    flows = stage_flows(make_dense(6))
    assert len(flows) == 1 + 5 * 6 / 2
    assert all(len(flow.tensors) == 3 for flow in flows if flow.source is not None)


@pytest.mark.parametrize(
    ("tensors", "text", "exact"),
    [
        ([], "0 B", "0"),
        ([tensor("a", 10)], "40 B", "40"),
        ([tensor("a", 1000)], "3.91 KiB", "4,000"),
        ([tensor("a", 256), tensor("b", 256)], "2 KiB", "2,048"),
        ([tensor("a", 64, 1024, 1024)], "256 MiB", "268,435,456"),
        ([tensor("a", dtype="bool")], "1 B", "1"),
        ([tensor("a", "length", 8)], "32 B × length", "32 × length"),  # noqa: RUF001 - as printed
        (
            [tensor("a", 8), tensor("b", "w", "h"), tensor("c", "h", "w", dtype="int64")],
            "32 B + 12 B × h × w",  # noqa: RUF001
            "32 + 12 × h × w",  # noqa: RUF001
        ),
    ],
)
def test_bytes_per_sample_as_text(tensors, text, exact):
    assert bytes_per_sample_text(tensors) == text
    assert bytes_per_sample_text(tensors, exact=True) == exact
