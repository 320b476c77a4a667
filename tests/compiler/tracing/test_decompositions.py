"""Operators that torch does not convert are computed with others, which return the same for every batch size."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeexit.compiler.tracing.decompositions import decompose
from edgeexit.compiler.tracing.torch_export import export_module, to_onnx
from edgeexit.errors import CompileError
from tests.compiler.tracing.functions import Functions, as_exit_module, differences

SAMPLES = torch.randn(5, 4, 6, 10, generator=torch.Generator().manual_seed(2))
TIED = torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0, 0.0])
KERNELS = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(3))
SORTED = torch.tensor([-1.0, 0.0, 0.5])


def of_the_sample(x, groups):
    """Convolve each sample with kernels of its own: a convolution whose number of groups is the batch."""
    weights = (x.mean((2, 3))[:, None, :, None, None] * KERNELS).flatten(0, 1)
    output = functional.conv2d(
        x.reshape(1, -1, 6, 10), weights, weights.sum((1, 2, 3)), stride=2, padding=1, groups=groups
    )
    return output.reshape(-1, 2, 3, 5)


def of_the_sample_1d(x):
    weights = (x.mean((2, 3))[:, None, :, None] * KERNELS[:, :, 0]).flatten(0, 1)
    output = functional.conv1d(x[:, :, 0].reshape(1, -1, 10), weights, padding=2, dilation=2, groups=x.shape[0])
    return output.reshape(-1, 2, 10)


FUNCTIONS = {
    "adaptive max pooling": lambda x: functional.adaptive_max_pool2d(x, (3, 5)),
    "adaptive max pooling to sizes that do not divide": lambda x: functional.adaptive_max_pool2d(x, (4, 3)),
    "adaptive max pooling to one": lambda x: functional.adaptive_max_pool2d(x, 1),
    "adaptive max pooling to more": lambda x: functional.adaptive_max_pool2d(x, (None, 13)),
    "adaptive max pooling in one dimension": lambda x: functional.adaptive_max_pool1d(x[:, 0], 3),
    "adaptive max pooling in three": lambda x: functional.adaptive_max_pool3d(x[:, None], (3, 2, 4)),
    "adaptive average pooling in three": lambda x: functional.adaptive_avg_pool3d(x[:, None], (3, 4, 4)),
    "adaptive average pooling": lambda x: functional.adaptive_avg_pool2d(x, (4, 3)),
    "convolution with kernels of the sample": lambda x: of_the_sample(x, x.shape[0]),
    "convolution in one dimension": of_the_sample_1d,
    "distances": lambda x: torch.cdist(x[:, 0], x[:, 1]),
    "distances to many": lambda x: torch.cdist(x.flatten(1, 2), x.flatten(1, 2)[:, ::2]) * (1 - torch.eye(24, 12)),
    "absolute distances": lambda x: torch.cdist(x[:, 0], x[:, 1], p=1),
    "largest distances": lambda x: torch.cdist(x[:, 0], x[:, 1], p=torch.inf),
    "cubic distances": lambda x: torch.cdist(x[:, 0], x[:, 1], p=3),
    "cumprod": lambda x: x.cumprod(3),
    "cummax": lambda x: x.cummax(-1)[0],
    "place of cummax": lambda x: (x[:, 0, 0, :6] * 0 + TIED).cummax(1)[1],
    "place of cummin": lambda x: (x[:, 0, 0, :6] * 0 + TIED).cummin(1)[1],
    "kthvalue": lambda x: x.kthvalue(2, 1)[0],
    "median": lambda x: x.median(3, keepdim=True)[0],
    "masked_select": lambda x: x.sum((1, 2, 3)) * 0 + x[:1].masked_select(x[:1] > 0).sum(),
    "searchsorted": lambda x: torch.searchsorted(SORTED, x.round(), right=True),
    "searchsorted from the left": lambda x: torch.searchsorted(SORTED, x.round()),
    "rrelu": functional.rrelu,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return differences(FUNCTIONS, SAMPLES, tmp_path_factory.mktemp("functions"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_decomposed_operator_returns_what_torch_returns(found, name):
    assert found[name] < 1e-4


def test_a_program_without_such_operators_is_not_changed():
    module = as_exit_module(Functions({"conv": nn.Conv2d(4, 2, 3)}), SAMPLES.shape[1:], ["conv"])
    program = export_module(module, module.inputs, {"x": SAMPLES.numpy()})
    assert decompose(program) is program


def test_the_indices_of_adaptive_max_pooling_are_an_error_with_the_line():
    def indices(x):
        return functional.adaptive_max_pool2d(x, (4, 3), return_indices=True)[1]

    module = as_exit_module(Functions({"indices": indices}), SAMPLES.shape[1:], ["indices"])
    program = export_module(module, module.inputs, {"x": SAMPLES.numpy()})
    with pytest.raises(CompileError, match=r"uses the indices of adaptive max pooling at functions.py:[0-9]+;"):
        to_onnx(program, opset=18)
