"""The drawing: one self-contained file with every stage, flow and exit, without overlaps."""

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from msgspec.structs import replace

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.stage_graph import draw_page, draw_svg, stage_flows
from edgeexit.stage_graph.layout import compute_layout
from tests.stage_graph.manifests import IMAGE, make_dense, make_manifest, make_profile

NAMESPACE = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - drawn a moment ago


def texts(svg: str) -> list[str]:
    return [element.text for element in parsed(svg).iter(f"{NAMESPACE}text")]


def tooltips(svg: str) -> list[str]:
    return [element.text for element in parsed(svg).iter(f"{NAMESPACE}title")]


@pytest.mark.parametrize("stages", [2, 5, 12])
def test_every_stage_exit_and_flow_is_drawn(stages):
    manifest = make_dense(stages)
    drawn = draw_svg(manifest, None)
    shown = texts(drawn)
    for k in range(stages):
        assert f"stage{k}" in shown
        assert f"exit{k}" in shown
    assert shown.count("3 KiB (3 tensors)") == stages * (stages - 1) / 2
    arrows = [title for title in tooltips(drawn) if title.startswith("from ")]
    assert len(arrows) == len(stage_flows(manifest))
    assert f"from stage 0 to stage {stages - 1}: 3 KiB per sample" in "\n".join(arrows)
    assert any("made0.2 [batch, 256] float32: 1 KiB" in title for title in arrows)


def test_every_cut_shows_the_size_of_the_live_tensors():
    drawn = draw_svg(make_dense(4), None)
    assert [text for text in texts(drawn) if text.startswith("live:")] == ["live: 3 KiB", "live: 6 KiB", "live: 9 KiB"]


def test_costs_are_macs_without_a_profile_and_latencies_with_one():
    manifest = make_dense(3)
    counted = texts(draw_svg(manifest, None))
    assert {"1 k MACs", "17 % of all MACs", "after 6 k MACs"} <= set(counted)
    assert not any("p50" in text for text in counted)

    profiled = texts(draw_svg(manifest, make_profile(manifest, exit_rates=(0.5, 0.25, 0.25))))
    assert {"p50 0.5 ms", "after 6 ms", "50.0 %", "25.0 %"} <= set(profiled)
    assert any("Cortex-A76, onnxruntime 1.23.2, batch 1" in text for text in profiled)

    assert not any("exit here" in text for text in texts(draw_svg(manifest, make_profile(manifest))))


def test_the_latencies_of_an_invalid_profile_are_marked():
    manifest = make_dense(3)
    profile = make_profile(manifest)
    assert not any("Invalid" in text for text in texts(draw_svg(manifest, profile)))
    drawn = draw_svg(manifest, replace(profile, invalid=("too hot", "busy")))
    assert any("Invalid profile: too hot; busy. Measured on" in text for text in [*texts(drawn), *tooltips(drawn)])


def test_the_length_of_a_bar_is_the_stages_fraction_of_the_latency():
    manifest = make_dense(3)
    root = parsed(draw_svg(manifest, make_profile(manifest)))
    widths = [
        float(element.get("width", "0")) for element in root.iter(f"{NAMESPACE}rect") if element.get("class") == "bar"
    ]
    assert [width / sum(widths) for width in widths] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=1e-4)


def test_names_from_the_model_are_escaped_and_truncated_with_the_full_name_in_the_tooltip():
    name = '<script>alert("x")</script>&\x01\x1b' + "y" * 100
    manifest = make_manifest(
        [["image"], [name]], carried=[[TensorSpec(name=name, dtype="float32", shape=("batch", 4))]], model=name
    )
    for drawn in (draw_svg(manifest, None), draw_page(manifest, None)):
        assert "<script" not in drawn
        assert "\x1b" not in drawn
        assert "\x01" not in drawn
    svg = draw_svg(manifest, None)
    assert any(
        title.startswith('<script>alert("x")</script>&') and title.endswith("y" * 100) for title in tooltips(svg)
    )
    assert any(text.startswith("<script>") and text.endswith("…") for text in texts(svg))


@pytest.mark.parametrize("draw", [draw_svg, draw_page])
def test_the_file_is_self_contained_and_reproducible(draw):
    manifest = make_dense(4)
    drawn = draw(manifest, None)
    assert drawn == draw(manifest, None)
    assert "<script" not in drawn
    assert "@import" not in drawn
    assert "prefers-color-scheme: dark" in drawn
    references = re.findall(r"https?://[^\"' )<]*|url\(|href=|src=", drawn)
    assert set(references) <= {"http://www.w3.org/2000/svg"}


def test_the_title_of_the_page_is_the_models_name():
    assert "<title>a &lt;b&gt; &amp; c: stage graph</title>" in draw_page(
        make_manifest([["image"], ["image"]], model="a <b> & c"), None
    )


@pytest.mark.parametrize("stages", [2, 3, 7, 12])
def test_no_two_elements_overlap(stages):
    manifest = make_dense(stages)
    layout = compute_layout(manifest, stage_flows(manifest))
    column = [layout.inputs, *layout.stages]
    assert all(above.bottom < below.y for above, below in pairwise(column))
    assert column[-1].bottom < layout.height
    assert layout.exits[0].x + layout.exits[0].width < layout.width
    for lane in layout.lanes:
        assert layout.margin <= lane.x < layout.inputs.x - layout.label_width
        for branch in lane.branches:
            target = layout.stages[branch.flow.target]
            assert target.y < branch.y < target.bottom
    by_target = [
        sorted(branch.y for lane in layout.lanes for branch in lane.branches if branch.flow.target == k)
        for k in range(stages)
    ]
    assert all(second - first >= 20 for ys in by_target for first, second in pairwise(ys))


@pytest.mark.parametrize("stages", [4, 12])
def test_two_lanes_at_the_same_height_never_share_a_line(stages):
    manifest = make_dense(stages)
    lanes = compute_layout(manifest, stage_flows(manifest)).lanes
    for one in lanes:
        for other in lanes:
            if one is not other and one.x == other.x:
                assert one.branches[-1].y < other.start_y or other.branches[-1].y < one.start_y


def test_short_skips_share_one_lane():
    made = [[TensorSpec(name=f"m{k}", dtype="float32", shape=("batch", 4))] for k in range(8)]
    reads = [["image"], ["m0"], *([f"m{k - 1}", f"m{k - 2}"] if k % 2 == 0 else [f"m{k - 1}"] for k in range(2, 9))]
    manifest = make_manifest(reads, carried=made)
    layout = compute_layout(manifest, stage_flows(manifest))
    assert len(layout.lanes) == 4
    assert len({lane.x for lane in layout.lanes}) == 1


def test_inputs_that_do_not_fit_are_counted():
    inputs = tuple(TensorSpec(name=f"in{k}", dtype="float32", shape=("batch", 2)) for k in range(9))
    drawn = draw_svg(make_manifest([[tensor.name for tensor in inputs], ["in0"]], inputs=inputs), None)
    assert "and 3 more" in texts(drawn)
    assert any("in8 [batch, 2] float32" in title for title in tooltips(drawn))


def test_a_stage_without_macs_still_has_a_fraction():
    drawn = texts(draw_svg(make_manifest([["image"], ["image"]], inputs=(IMAGE,)), None))
    assert "33 % of all MACs" in drawn
