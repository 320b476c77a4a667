"""The drawing: one self-contained file that has every stage, flow and exit, and no overlap."""

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.stage_graph import draw_page, draw_svg, flows_of
from edgeexit.stage_graph.layout import lay_out
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
    assert len(arrows) == len(flows_of(manifest))
    assert f"from stage 0 to stage {stages - 1}: 3 KiB a sample" in "\n".join(arrows)
    assert any("made0.2 [batch, 256] float32: 1 KiB" in title for title in arrows)


def test_the_cut_says_what_is_kept():
    drawn = draw_svg(make_dense(4), None)
    assert [text for text in texts(drawn) if text.startswith("kept")] == ["kept: 3 KiB", "kept: 6 KiB", "kept: 9 KiB"]


def test_costs_are_counted_until_there_is_a_profile():
    manifest = make_dense(3)
    counted = texts(draw_svg(manifest, None))
    assert {"1 k MACs", "17 % of all MACs", "after 6 k MACs"} <= set(counted)
    assert not any("p50" in text for text in counted)

    profiled = texts(draw_svg(manifest, make_profile(manifest, exit_rates=(0.5, 0.25, 0.25))))
    assert {"p50 0.5 ms", "after 6 ms", "50.0 %", "25.0 %"} <= set(profiled)
    assert any("Cortex-A76, onnxruntime 1.23.2, batch 1" in text for text in profiled)

    assert not any("leave here" in text for text in texts(draw_svg(manifest, make_profile(manifest))))


def test_a_bar_is_as_long_as_the_stages_share_of_the_latency():
    manifest = make_dense(3)
    root = parsed(draw_svg(manifest, make_profile(manifest)))
    widths = [
        float(element.get("width", "0")) for element in root.iter(f"{NAMESPACE}rect") if element.get("class") == "bar"
    ]
    assert [width / sum(widths) for width in widths] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=1e-4)


def test_names_from_the_model_are_escaped_and_cut_but_whole_in_the_tooltip():
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
def test_the_file_stands_alone_and_is_the_same_each_time(draw):
    manifest = make_dense(4)
    drawn = draw(manifest, None)
    assert drawn == draw(manifest, None)
    assert "<script" not in drawn
    assert "@import" not in drawn
    assert "prefers-color-scheme: dark" in drawn
    references = re.findall(r"https?://[^\"' )<]*|url\(|href=|src=", drawn)
    assert set(references) <= {"http://www.w3.org/2000/svg"}


def test_the_page_has_the_models_name_as_its_title():
    assert "<title>a &lt;b&gt; &amp; c: stage graph</title>" in draw_page(
        make_manifest([["image"], ["image"]], model="a <b> & c"), None
    )


@pytest.mark.parametrize("stages", [2, 3, 7, 12])
def test_nothing_lies_on_anything_else(stages):
    manifest = make_dense(stages)
    layout = lay_out(manifest, flows_of(manifest))
    column = [layout.inputs, *layout.stages]
    assert all(above.bottom < below.y for above, below in pairwise(column))
    assert column[-1].bottom < layout.height
    assert layout.exits[0].x + layout.exits[0].width < layout.width
    for lane in layout.lanes:
        assert layout.margin <= lane.x < layout.inputs.x - layout.label_width
        for tap in lane.taps:
            target = layout.stages[tap.flow.target]
            assert target.y < tap.y < target.bottom
    by_target = [
        sorted(tap.y for lane in layout.lanes for tap in lane.taps if tap.flow.target == k) for k in range(stages)
    ]
    assert all(second - first >= 20 for ys in by_target for first, second in pairwise(ys))


@pytest.mark.parametrize("stages", [4, 12])
def test_two_lanes_side_by_side_in_time_never_share_a_line(stages):
    manifest = make_dense(stages)
    lanes = lay_out(manifest, flows_of(manifest)).lanes
    for one in lanes:
        for other in lanes:
            if one is not other and one.x == other.x:
                assert one.taps[-1].y < other.leaves_y or other.taps[-1].y < one.leaves_y


def test_short_skips_share_one_lane():
    made = [[TensorSpec(name=f"m{k}", dtype="float32", shape=("batch", 4))] for k in range(8)]
    reads = [["image"], ["m0"], *([f"m{k - 1}", f"m{k - 2}"] if k % 2 == 0 else [f"m{k - 1}"] for k in range(2, 9))]
    manifest = make_manifest(reads, carried=made)
    layout = lay_out(manifest, flows_of(manifest))
    assert len(layout.lanes) == 4
    assert len({lane.x for lane in layout.lanes}) == 1


def test_many_inputs_are_counted_where_they_do_not_fit():
    inputs = tuple(TensorSpec(name=f"in{k}", dtype="float32", shape=("batch", 2)) for k in range(9))
    drawn = draw_svg(make_manifest([[tensor.name for tensor in inputs], ["in0"]], inputs=inputs), None)
    assert "and 3 more" in texts(drawn)
    assert any("in8 [batch, 2] float32" in title for title in tooltips(drawn))


def test_a_stage_of_cheap_operators_alone_has_a_share():
    drawn = texts(draw_svg(make_manifest([["image"], ["image"]], inputs=(IMAGE,)), None))
    assert "33 % of all MACs" in drawn
