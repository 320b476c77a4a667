"""The choice of library and GPU. TensorRT is a stand-in, because it needs a GPU to start; TensorRT-RTX is real."""

import types

import pytest

from edgeexit.backends.tensorrt.engines import Hardware, Library, choose_toolchain, read_sm, toolchain
from edgeexit.backends.tensorrt.engines.toolchain import match_toolchain
from edgeexit.backends.tensorrt.library import TensorRtMessages
from edgeexit.errors import EngineError

TRT = Library("tensorrt", "10.3.0", types.SimpleNamespace(), None, TensorRtMessages())
ORIN = Hardware(sm="SM87", device="Orin", cuda="12.6")
RTX4000 = Hardware(sm="SM89", device="RTX 4000", cuda="13.0")


@pytest.mark.parametrize(
    ("sm", "local_gpu", "first", "chosen", "gpu_is_local"),
    [
        (None, ORIN, "trt", "tensorrt", True),
        ("SM87", ORIN, "rtx", "tensorrt", True),
        (None, RTX4000, "rtx", "tensorrt_rtx", True),
        (None, RTX4000, "trt", "tensorrt", True),
        ("SM86", RTX4000, "trt", "tensorrt_rtx", False),
        ("SM86", None, "trt", "tensorrt_rtx", False),
    ],
)
def test_a_library_that_can_build_for_the_gpu_is_chosen(rtx, sm, local_gpu, first, chosen, gpu_is_local):
    libraries = [TRT, rtx] if first == "trt" else [rtx, TRT]
    found = match_toolchain(sm, libraries, local_gpu)
    assert (found.library.name, found.gpu_is_local) == (chosen, gpu_is_local)
    assert found.hardware == (local_gpu if gpu_is_local else Hardware(sm=sm))


def test_a_gpu_that_no_library_builds_for_is_refused_with_the_supported_ones(rtx):
    with pytest.raises(
        EngineError, match=r"tensorrt 10.3.0 cannot build for SM86 with SM87 here; install .*tensorrt-rtx"
    ):
        match_toolchain("SM86", [TRT], ORIN)
    with pytest.raises(
        EngineError, match=r"cannot build for SM90 with no NVIDIA GPU here; use --for with one of SM75, SM80, SM86"
    ):
        match_toolchain("SM90", [rtx], None)
    with pytest.raises(EngineError, match=r"no NVIDIA GPU to build for was found here: no driver; .*, or use --for"):
        match_toolchain(None, [rtx], None, why_no_gpu="no driver")


@pytest.mark.parametrize("text", ["SM86", "sm86", "sm_86", "8.6", "86", " 86 "])
def test_a_compute_capability_is_accepted_in_every_usual_notation(text):
    assert read_sm(text) == "SM86"


def test_a_compute_capability_may_have_a_major_version_of_two_digits():
    assert [read_sm(text) for text in ("12.0", "120", "SM110")] == ["SM120", "SM120", "SM110"]


@pytest.mark.parametrize("text", ["", "orin", "8", "8.6.1", "-86", "SM8x"])
def test_other_text_is_refused_as_a_compute_capability(text):
    with pytest.raises(EngineError, match=r"is not a compute capability; write it as SM86 or 8\.6"):
        read_sm(text)


def test_the_error_names_the_local_gpu_when_no_library_builds_for_it(rtx, monkeypatch):
    monkeypatch.setattr(toolchain, "find_gpu", lambda: Hardware(sm="SM90"))
    with pytest.raises(EngineError, match=r"cannot build for SM99 with SM90 here"):
        choose_toolchain("SM99", first="tensorrt_rtx")
    with pytest.raises(EngineError, match=r"cannot build for SM90 with SM90 here"):
        choose_toolchain(None, first="tensorrt_rtx")
