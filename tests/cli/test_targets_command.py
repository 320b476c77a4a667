"""`edgeexit targets`: the list, one explained, and the user's own files."""

import json

import pytest


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's own folder of targets."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "targets"
    folder.mkdir()
    return folder


def test_the_list_has_a_line_a_target_with_what_to_start_with(edgeexit, own):
    lines = edgeexit("targets").out.splitlines()
    (orin,) = [line for line in lines if "jetson-orin-nano " in line]
    for word in ("tensorrt", "aarch64", "fp16", "4 GB", "TensorRT on the GPU"):
        assert word in orin


def test_the_list_marks_the_users_own_and_goes_on_past_a_broken_one(edgeexit, own):
    target = 'description = "mine"\nopset = 18\narchitecture = "x86_64"\nruntime = "onnxruntime"\nprecisions = ["int8"]\n'
    (own / "broken.toml").write_text(target.replace("18", '"new"'))
    (own / "x86-cpu.toml").write_text(target)
    outcome = edgeexit("targets")
    assert outcome.code == 0
    assert "x86-cpu (yours)" in outcome.out
    assert "arm64-cpu (yours)" not in outcome.out
    assert outcome.err.strip() == (
        "warning: target file 'targets/broken.toml', line 2: opset = \"new\": expected int, got str"
    )

    listed = json.loads(edgeexit("targets", "--json").out)
    assert listed["x86-cpu"]["yours"]
    assert not listed["arm64-cpu"]["yours"]
    assert "line 2" in listed["broken"]["error"]

    asked = edgeexit("targets", "broken")
    assert (asked.code, asked.out) == (2, "")
    assert asked.err.startswith("error: target file 'targets/broken.toml', line 2: ")


def test_a_jetson_is_explained_with_gpu_and_tensorrt(edgeexit, own):
    text = " ".join(edgeexit("targets", "jetson-orin-nx").out.split())
    for said in (
        "edgeexit engines build",
        "start with fp16",
        "SM87; 1 DLA core",
        "10.3 with JetPack 6.2",
        "batches of 1 to 32, best at 1; at most 2,048 MB of workspace",
        "8 GB on the smallest variant",
        "the 16 GB module two",
        "copy it to targets/jetson-orin-nx.toml",
    ):
        assert said in text
    assert "idle threads" not in text


def test_a_board_with_an_old_python_says_so(edgeexit, own):
    text = " ".join(edgeexit("targets", "jetson-nano").out.split())
    assert "3.6 comes with the system and is too old; add 3.10 or newer" in text
    assert "SM53; no DLA cores; not used" in text
    assert "4 threads an operator; idle threads sleep" in text


def test_one_target_as_json_has_its_fields_and_its_file(edgeexit, own):
    told = json.loads(edgeexit("targets", "jetson-thor", "--json").out)
    assert told["nvidia"]["sm"] == "SM110"
    assert told["file"].endswith("jetson-thor.toml")
    assert not told["yours"]


def test_an_unknown_name_is_one_line_with_the_nearest(edgeexit, own):
    outcome = edgeexit("targets", "raspberrypi-5")
    assert outcome.code == 2
    assert "did you mean 'raspberry-pi-5'?" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
