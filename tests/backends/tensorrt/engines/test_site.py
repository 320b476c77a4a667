"""Which library builds for which GPU; TensorRT itself is a stand-in, for its wheels need a GPU to start."""

import types

import pytest

from edgeexit.backends.tensorrt.engines import Hardware, Library, choose_site, read_sm, site
from edgeexit.backends.tensorrt.engines.builder import gpu_layers
from edgeexit.backends.tensorrt.engines.site import match_site
from edgeexit.backends.tensorrt.library import Journal
from edgeexit.errors import EngineError

TRT = Library("tensorrt", "10.3.0", types.SimpleNamespace(), None, Journal())
ORIN = Hardware(sm="SM87", device="Orin", cuda="12.6")
RTX4000 = Hardware(sm="SM89", device="RTX 4000", cuda="13.0")


@pytest.mark.parametrize(
    ("sm", "here", "first", "chosen", "is_here"),
    [
        (None, ORIN, "trt", "tensorrt", True),
        ("SM87", ORIN, "rtx", "tensorrt", True),
        (None, RTX4000, "rtx", "tensorrt_rtx", True),
        (None, RTX4000, "trt", "tensorrt", True),
        ("SM86", RTX4000, "trt", "tensorrt_rtx", False),
        ("SM86", None, "trt", "tensorrt_rtx", False),
    ],
)
def test_the_library_that_can_is_chosen(rtx, sm, here, first, chosen, is_here):
    libraries = [TRT, rtx] if first == "trt" else [rtx, TRT]
    site = match_site(sm, libraries, here)
    assert (site.library.name, site.is_here) == (chosen, is_here)
    assert site.hardware == (here if is_here else Hardware(sm=sm))


def test_what_nothing_can_build_is_refused_with_what_can_be(rtx):
    with pytest.raises(
        EngineError, match=r"tensorrt 10.3.0 cannot build for SM86 with SM87 here; install .*tensorrt-rtx"
    ):
        match_site("SM86", [TRT], ORIN)
    with pytest.raises(
        EngineError, match=r"cannot build for SM90 with no NVIDIA GPU here; --for takes SM75, SM80, SM86"
    ):
        match_site("SM90", [rtx], None)
    with pytest.raises(EngineError, match=r"there is no NVIDIA GPU here to build for \(no driver\)"):
        match_site(None, [rtx], None, why_none="no driver")


def test_what_a_dla_build_left_to_the_gpu_is_read_from_its_account():
    account = [
        "---------- Layers Running on DLA ----------",
        "[DlaLayer] {ForeignNode[Conv_0...Relu_9]}",
        "---------- Layers Running on GPU ----------",
        "[GpuLayer] POOLING: GlobalAveragePool_10",
        "[GpuLayer] Softmax_12",
    ]
    assert gpu_layers(account) == ("GlobalAveragePool_10", "Softmax_12")
    assert gpu_layers(account[:2]) == ()


def test_tensorrt_that_does_not_start_says_what_it_needs():
    def refuse(log):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    broken = TRT._replace(api=types.SimpleNamespace(Builder=refuse))
    broken.journal.add("ERROR", "CUDA initialization failure with error: 35")
    with pytest.raises(
        EngineError, match=r"tensorrt 10.3.0 does not start: CUDA initialization failure .* needs an NVIDIA"
    ):
        broken.new_builder()


@pytest.mark.parametrize("text", ["SM86", "sm86", "sm_86", "8.6", "86", " 86 "])
def test_a_compute_capability_may_be_written_in_every_usual_way(text):
    assert read_sm(text) == "SM86"


def test_two_digits_before_the_point():
    assert [read_sm(text) for text in ("12.0", "120", "SM110")] == ["SM120", "SM120", "SM110"]


@pytest.mark.parametrize("text", ["", "orin", "8", "8.6.1", "-86", "SM8x"])
def test_what_is_no_compute_capability_is_refused(text):
    with pytest.raises(EngineError, match="is no compute capability, such as SM86"):
        read_sm(text)


def test_a_gpu_that_is_here_is_not_forgotten_when_it_is_the_wrong_one(rtx, monkeypatch):
    monkeypatch.setattr(site, "find_gpu", lambda: Hardware(sm="SM90"))
    with pytest.raises(EngineError, match=r"cannot build for SM99 with SM90 here"):
        choose_site("SM99", first="tensorrt_rtx")
    with pytest.raises(EngineError, match=r"cannot build for SM90 with SM90 here"):
        choose_site(None, first="tensorrt_rtx")
