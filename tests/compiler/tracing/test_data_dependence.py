"""A run without tracing finds branches on data, and numbers that are taken from data and reach an output."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.compiler.tracing.data_dependence import check_data_dependence
from edgeexit.errors import CompileError


class Forward(nn.Module):
    """Returns the value of a function of the module and the input, which are two samples of four numbers."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("enabled", torch.tensor([1.0]))
        self.seen = 0.0

    def forward(self, x):
        return (self.function(self, x),)


def check(function):
    check_data_dependence(Forward(function).eval(), (torch.tensor([[1.0, -2.0, 3.0, 0.5], [0.0, 4.0, -1.0, 2.0]]),))


def branch_on_buffer(module, x):
    return x * 2 if module.enabled[0] == 1 and module.enabled.item() > 0 else x


def branch_on_size(_, x):
    return x * 2 if x.shape[1] == 4 else x


def statistics(module, x):
    certain = x.softmax(1).amax(1)
    module.seen += certain.mean().item()
    module.history = [*certain.tolist(), float(certain[0]), int(certain.numpy().argmax())]
    module.text = f"{certain.mean():.2f} {certain}"
    return x * 2


def counter(module, x):
    if x.softmax(1).max().item() > 0.5:
        module.seen += 1
    return x * 2


def masked(_, x):
    y = x.clone()
    y[x > 0] = 0
    return y + x[x > 0].sum()


@pytest.mark.parametrize("function", [branch_on_buffer, branch_on_size, statistics, counter, masked])
def test_numbers_that_reach_no_output_and_branches_on_constants_are_accepted(function):
    check(function)


def branch(_, x):
    return x * 2 if x.sum() > 0 else x  # here


def branch_on_copy(module, x):
    module.enabled[0] = x.mean()
    return x * 2 if module.enabled > 0 else x  # here


def branch_by_comparison(_, x):
    return x * 2 if torch.allclose(x, x * 2) else x  # here


def assertion(_, x):
    assert torch.isfinite(x).all()  # here
    return x


@pytest.mark.parametrize("function", [branch, branch_on_copy, branch_by_comparison, assertion])
def test_a_branch_on_data_is_an_error_with_its_line(function):
    with pytest.raises(CompileError, match="branches on its data") as raised:
        check(function)
    assert_at_line(str(raised.value), function)


def scaled(_, x):
    return x / x.abs().max().item()  # here


def early(_, x):
    return x if x.softmax(1).max().item() > 0.9 else x * 2  # here


def all_positive(_, x):
    return x if int((x > 0).sum()) == x.numel() else x * 2  # here


def by_numpy(_, x):
    return torch.from_numpy(np.sort(x.numpy())) * 2  # here


def chosen(_, x):
    return x[:, [int(x.sum(0).argmax())]]  # here


def endless(_, x):
    steps = x.mean().item()  # here
    while steps < 0:
        x = x + 1
    return x


def next_time(module, x):
    scale, module.seen = module.seen, x.mean().item()  # here
    return x * scale


@pytest.mark.parametrize("function", [scaled, early, all_positive, by_numpy, chosen, next_time])
def test_a_number_that_reaches_an_output_is_an_error_with_its_line(function):
    with pytest.raises(CompileError, match="converts its data to a number") as raised:
        check(function)
    assert_at_line(str(raised.value), function)


def test_a_loop_that_a_changed_number_makes_endless_is_an_error(monkeypatch):
    monkeypatch.setattr("edgeexit.compiler.tracing.data_dependence._MIN_SECONDS", 0.2)
    with pytest.raises(CompileError, match="converts its data to a number"):
        check(endless)


def test_a_size_that_depends_on_data_is_an_error_with_its_line():
    def size(_, x):
        return x * 2 if len(x.nonzero()) else x  # here

    with pytest.raises(CompileError, match="reads a size that depends on its data") as raised:
        check(size)
    assert_at_line(str(raised.value), size)


def test_a_buffer_that_changes_is_an_error():
    def stateful(module, x):
        module.enabled += 1
        return x

    with pytest.raises(CompileError, match="changes the buffer 'enabled'"):
        check(stateful)


def assert_at_line(text, function):
    """Assert that the text names the line of the function that ends in `# here`."""
    (line,) = re.findall(r"at test_data_dependence.py:(\d+)", text)
    lines = Path(__file__).read_text().splitlines()
    assert lines[int(line) - 1].endswith("# here")
    assert 0 < int(line) - function.__code__.co_firstlineno < 5
