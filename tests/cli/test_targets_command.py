"""`edgeexit targets`: the list, the description of one target, and the user's own files."""

import json

import pytest


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's folder of targets."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "targets"
    folder.mkdir()
    return folder


def test_the_list_has_one_line_per_target_with_the_recommended_precision(edgeexit, own):
    lines = edgeexit("targets").out.splitlines()
    (orin,) = [line for line in lines if "jetson-orin-nano " in line]
    for word in ("tensorrt", "aarch64", "fp16", "4 GB", "TensorRT on the GPU"):
        assert word in orin


def test_the_list_marks_the_users_targets_and_continues_after_a_broken_file(edgeexit, own):
    target = (
        'description = "mine"\nopset = 18\narchitecture = "x86_64"\nruntime = "onnxruntime"\nprecisions = ["int8"]\n'
    )
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


def test_the_description_of_a_jetson_has_its_gpu_and_tensorrt(edgeexit, own):
    text = " ".join(edgeexit("targets", "jetson-orin-nx").out.split())
    for part in (
        "edgeexit engines build",
        "start with fp16",
        "SM87; 1 DLA core",
        "10.3 with JetPack 6.2",
        "batch sizes 1 to 32, optimal 1; max workspace 2,048 MB",
        "8 GB on the smallest variant",
        "the 16 GB module two",
        "copy it to targets/jetson-orin-nx.toml",
    ):
        assert part in text
    assert "idle threads" not in text


def test_the_description_of_a_board_says_that_its_python_is_too_old(edgeexit, own):
    text = " ".join(edgeexit("targets", "jetson-nano").out.split())
    assert "3.6 comes with the operating system and is too old; install 3.10 or newer" in text
    assert "SM53; no DLA cores; not used" in text
    assert "4 threads per operator; idle threads sleep" in text


def test_one_target_as_json_has_its_fields_and_its_file(edgeexit, own):
    target = json.loads(edgeexit("targets", "jetson-thor", "--json").out)
    assert target["nvidia"]["sm"] == "SM110"
    assert target["file"].endswith("jetson-thor.toml")
    assert not target["yours"]


def test_an_unknown_name_is_one_line_with_the_closest_name(edgeexit, own):
    outcome = edgeexit("targets", "raspberrypi-5")
    assert outcome.code == 2
    assert "did you mean 'raspberry-pi-5'?" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
