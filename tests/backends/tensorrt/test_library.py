"""Differences between the versions of TensorRT, and a TensorRT that does not start. The library is a stand-in."""

import types

import pytest

from edgeexit.backends.tensorrt.library import Library, TensorRtMessages
from edgeexit.errors import EngineError

TRT = Library("tensorrt", "10.3.0", types.SimpleNamespace(), None, TensorRtMessages())


def test_tensorrt_that_does_not_start_names_what_it_needs():
    def refuse(log):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    broken = TRT._replace(api=types.SimpleNamespace(Builder=refuse))
    broken.messages.add("ERROR", "CUDA initialization failure with error: 35")
    with pytest.raises(
        EngineError, match=r"tensorrt 10.3.0 does not start: CUDA initialization failure .* needs an NVIDIA"
    ):
        broken.new_builder()


def test_a_library_without_a_scratch_size_argument_gets_the_address():
    older = types.SimpleNamespace(device_memory=0)
    TRT.set_scratch(older, 512, 1024)
    assert older.device_memory == 512
