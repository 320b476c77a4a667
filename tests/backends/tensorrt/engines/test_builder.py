"""The layers of a DLA build that run on the GPU."""

from edgeexit.backends.tensorrt.engines.builder import gpu_layers


def test_the_gpu_layers_of_a_dla_build_are_read_from_its_messages():
    messages = [
        "---------- Layers Running on DLA ----------",
        "[DlaLayer] {ForeignNode[Conv_0...Relu_9]}",
        "---------- Layers Running on GPU ----------",
        "[GpuLayer] POOLING: GlobalAveragePool_10",
        "[GpuLayer] Softmax_12",
    ]
    assert gpu_layers(messages) == ("GlobalAveragePool_10", "Softmax_12")
    assert gpu_layers(messages[:2]) == ()
