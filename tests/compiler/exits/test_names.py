"""`--exits` takes names and patterns."""

import re

import pytest

from edgeexit.compiler.exits.names import match_names
from edgeexit.errors import CompileError

NAMES = ("0.0", "0.1", "0.10", "1.0", "final")


@pytest.mark.parametrize(
    ("patterns", "selected"),
    [
        (["final", "0.1"], ("final", "0.1")),
        (["0.*"], ("0.0", "0.1", "0.10")),
        (["final", "*"], ("final", "0.0", "0.1", "0.10", "1.0")),
        (["?.[0]", "final"], ("0.0", "1.0", "final")),
    ],
)
def test_names_and_patterns_select_in_their_order(patterns, selected):
    assert match_names(patterns, NAMES) == selected


@pytest.mark.parametrize(
    ("patterns", "match"),
    [
        (["finl"], "there is no exit 'finl'; did you mean 'final'? The model has '0.0', '0.1'"),
        (["0"], "there is no exit '0'; '0' holds several outputs, select them with '0.*'; the model has '0.0'"),
        (["2.*"], "there is no exit '2.*'; the model has"),
        (["final", "0.*", "final"], "exit 'final' is given twice"),
    ],
)
def test_an_unknown_or_repeated_name_is_an_error_with_a_suggestion(patterns, match):
    with pytest.raises(CompileError, match=re.escape(match)):
        match_names(patterns, NAMES)


def test_a_long_list_of_names_is_shortened():
    with pytest.raises(CompileError, match=r"'layer19' and 80 more$"):
        match_names(["exit"], [f"layer{index}" for index in range(100)])
