"""A run without tracing finds branches on data, and numbers that are taken from data and reach an output."""

import re
from concurrent.futures import ThreadPoolExecutor
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
        self.special = 101

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


def caught(_, x):
    try:
        assert (x <= 4).all()  # here
    except Exception:  # noqa: BLE001 - as users write it
        return x / 255
    return x


def branch_by_keyword(_, x):
    return x * 2 if torch.equal(input=x, other=x * 2) else x  # here


@pytest.mark.parametrize(
    "function", [branch, branch_on_copy, branch_by_comparison, branch_by_keyword, assertion, caught]
)
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


def one_number(_, x):
    return x * 2 if round(x.max().item()) == 101 else x  # here


def interval(_, x):
    return x * 2 if 40.5 < x.max().item() < 200 else x  # here


def attribute(module, x):
    return x * 2 if round(x.max().item()) == module.special else x  # here


def constant_tensor(_, x):
    return x / torch.tensor([x.max().clamp(min=4.0)])  # here


def constant_index(_, x):
    return x[:, [x.mean().long().clamp(min=0)]]  # here


def formatted(_, x):
    return x * float(f"{x.max():.1f}")  # here


def in_place(_, x):
    array = x.numpy()  # here
    np.clip(array, -9, 9, out=array)
    return x


def memory(_, x):
    return x / float(np.from_dlpack(x).max())  # here


def element_by_element(_, x):
    return x.clone().apply_(lambda value: min(value, 5.0))  # here


def without_functions(_, x):
    with torch._C.DisableTorchFunction():
        return x * 2 if x.max() > 3 else x  # here


@pytest.mark.parametrize(
    "function",
    [
        scaled, early, all_positive, by_numpy, chosen, next_time, one_number, interval, attribute, constant_tensor,
        constant_index, formatted, in_place, memory, element_by_element, without_functions,
    ],
)  # fmt: skip
def test_a_number_that_reaches_an_output_is_an_error_with_its_line(function):
    with pytest.raises(CompileError, match="converts its data to a number") as raised:
        check(function)
    assert_at_line(str(raised.value), function)


def test_a_loop_that_a_changed_number_makes_endless_is_an_error(monkeypatch):
    monkeypatch.setattr("edgeexit.compiler.tracing.data_dependence._MIN_SECONDS", 0.2)
    with pytest.raises(CompileError, match="converts its data to a number"):
        check(endless)


def size(_, x):
    return x * 2 if len(x.nonzero()) else x  # here


def loop_over_rows(_, x):
    for _row in x.nonzero():  # here
        x = x * 0.9
    return x


@pytest.mark.parametrize("function", [size, loop_over_rows])
def test_a_size_that_depends_on_data_is_an_error_with_its_line(function):
    with pytest.raises(CompileError, match="reads a size that depends on its data") as raised:
        check(function)
    assert_at_line(str(raised.value), function)


def test_a_sparse_copy_of_the_data_and_a_thread_are_errors_with_their_lines():
    def sparse(_, x):
        return x * 2 if x.to_sparse().to_dense().max() > 3 else x  # here

    def threaded(_, x):
        with ThreadPoolExecutor(1) as pool:
            return x * 2 if pool.submit(lambda: bool(x.max() > 3)).result() else x  # here

    for function, text in ((sparse, "makes a sparse tensor of its data"), (threaded, "starts a thread")):
        with pytest.raises(CompileError, match=text) as raised:
            check(function)
        assert_at_line(str(raised.value), function)


def test_a_forward_that_changes_its_input_in_place_may_read_numbers():
    check(lambda module, x: statistics(module, x.div_(2)))


def test_a_forward_that_fails_when_it_is_observed_is_an_error():
    def fails(_, x):
        raise RuntimeError("no modes")

    with pytest.raises(CompileError, match="forward fails while its operators are observed: RuntimeError: no modes"):
        check(fails)


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
