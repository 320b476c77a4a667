"""What forward returns becomes named outputs, of which some are exits."""

import collections
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch

from edgeexit.compiler.torch_module.outputs import as_container, choose_outputs, flatten_outputs, pick_output
from edgeexit.errors import CompileError

A, B, MAP = torch.zeros(2, 4), torch.ones(2, 4), torch.zeros(2, 3, 8, 8)


@dataclasses.dataclass
class Result:
    logits: Any
    loss: Any = None


class Pair(NamedTuple):
    shallow: Any
    deep: Any


class Opaque:
    """A class that is not a container."""


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (A, ["exit0"]),
        ((A, B), ["exit0", "exit1"]),
        ([A, None, B], ["exit0", "exit2"]),
        ((A, B, 0.5, "text", A.shape, ()), ["exit0", "exit1", "exit2", "exit3", "exit4"]),
        (([A, B], [MAP]), ["0.0", "0.1", "1.0"]),
        ({"deep": B, "shallow": A}, ["deep", "shallow"]),
        ({3: A, 12: B}, ["3", "12"]),
        ({"exits": [A, B], "aux": {"map": MAP, "loss": None}}, ["exits.0", "exits.1", "aux.map"]),
        (collections.OrderedDict(z=A, a=B), ["z", "a"]),
        (Pair(A, [B]), ["shallow", "deep.0"]),
        (Result([A, B]), ["logits.0", "logits.1"]),
        (Result({"e": A}, loss=B), ["logits.e", "loss"]),
        (Opaque(), ["exit0"]),
        (None, []),
    ],
)
def test_outputs_are_named_by_their_path(returned, names):
    outputs = flatten_outputs(returned)
    assert list(outputs) == names
    for output in outputs.values():
        assert pick_output(returned, output.steps) is output.value


def test_the_outputs_of_a_hugging_face_model_are_those_that_it_set():
    modeling_outputs = pytest.importorskip("transformers.modeling_outputs")
    returned = modeling_outputs.SequenceClassifierOutput(logits=A, hidden_states=(MAP, MAP))
    assert list(flatten_outputs(returned)) == ["logits", "hidden_states.0", "hidden_states.1"]


def test_a_generator_is_read_once():
    assert list(flatten_outputs(as_container(each for each in (A, B)))) == ["exit0", "exit1"]
    assert as_container({"a": A}) == {"a": A}


def test_two_values_with_one_path_are_rejected():
    with pytest.raises(CompileError, match=r"two values at 'a\.b'"):
        flatten_outputs({"a": {"b": A}, "a.b": B})


def choose(returned, *patterns):
    return choose_outputs(flatten_outputs(returned), patterns, {})[0]


def test_only_the_chosen_outputs_must_be_tensors_of_logits():
    returned = {"p": A.argmax(1), "b": B, "a": A, "hidden": (MAP, A.half()), "t": 0.5, "loss": None}
    assert choose(returned, "a", "b") == ("a", "b")
    assert choose({"e0": {"logits": A, "map": MAP}, "e1": {"logits": B, "map": MAP}}, "*.logits") == (
        "e0.logits",
        "e1.logits",
    )


def test_without_a_choice_all_tensors_are_exits_and_other_values_are_not():
    assert choose((A, B, 0.5, None, "text")) == ("exit0", "exit1")
    assert choose({"a": A, "b": B[..., None, None], "c": A.double()}) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("returned", "patterns", "match"),
    [
        (([A, B], [MAP]), (), "'0.1' 2x4 float32, '1.0' 2x3x8x8 float32; select the exits with --exits"),
        ((A, B, A.argmax(1)), (), "'exit2' 2 int64; select"),
        ((A, B, A.sum()), (), "'exit2' a scalar float32; select"),
        ((A, B[:, :3]), (), "'exit1' 2x3 float32; select"),
        (torch.stack([A, B]), (), r"'exit0' 2x2x4 float32; if it holds all exits, .* unbind\(1\)"),
        (B, (), "forward returns 'exit0' 2x4 float32; return all exits in evaluation mode, too"),
        ((A.argmax(1), B.argmax(1)), (), "'exit0' 2 int64, 'exit1' 2 int64; return the logits"),
        (None, (), "forward returns None, which has no tensors"),
        (Opaque(), (), "forward returns 'exit0' Opaque, which has no tensors"),
        ({"a": A, "b": B, "t": 0.5}, ("a", "t"), "exit 't' is float; an exit must be a tensor"),
        ({"a": A, "b": B}, ("a",), "exit 'a' is the only one given; give at least 2 of 'a', 'b'"),
    ],
)  # fmt: skip
def test_outputs_that_cannot_be_exits_are_listed(returned, patterns, match):
    with pytest.raises(CompileError, match=match):
        choose(returned, *patterns)
