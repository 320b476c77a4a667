"""An error in a TOML document is reported with its line."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.toml_document import FieldError, TomlError, decode_toml, line_of

_keys = st.text("abcdefgh", min_size=1, max_size=3)
_values = st.one_of(
    st.integers(-9, 9).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8).map(json.dumps),
    st.lists(st.integers(0, 9), max_size=3).map(
        lambda numbers: "[\n" + "".join(f"  {n}, # {n}\n" for n in numbers) + "]"
    ),
    st.lists(st.sampled_from(["plain", "k = 1", "[table]", "# not", ""])).map(
        lambda rows: '"""\n' + "\n".join(rows) + '"""'
    ),
)
_noise = st.sampled_from(["", "# a = 1", "   ", "# [b]"])


@st.composite
def documents(draw):
    """Draw a TOML text and the line of each of its keys."""
    lines, places = [], {}
    for table in [None, *draw(st.lists(_keys.map("t{}".format), unique=True, max_size=3))]:
        if table is not None:
            lines.append(f"[{table}]")
            places[table,] = len(lines)
        for key in draw(st.lists(_keys, unique=True, max_size=4)):
            lines += draw(st.lists(_noise, max_size=2))
            path = (key,) if table is None else (table, key)
            places[path] = sum(line.count("\n") + 1 for line in lines) + 1
            lines.append(f"{key} = {draw(_values)}")
        lines = "\n".join(lines).split("\n") if lines else lines
    return "\n".join(lines), places


@given(documents(), st.sampled_from(["\n", "\r\n"]))
def test_every_key_is_found_on_the_line_where_it_begins(document, newline):
    text, places = document
    text = text.replace("\n", newline)
    for path, line in places.items():
        # A statement begins after the previous one; a blank line or a comment is a statement of its own.
        assert line_of(text, path) == line, (path, text)


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a.b = 1\na.c = 2", ("a", "c"), 2),
        ("a = { b = 1, c = 2 }", ("a", "c"), 1),
        ('"x y" = 1\n[a."b.c"]\nd = 1', ("a", "b.c", "d"), 3),
        ("a = 1", ("b",), None),
        ("a = 1", ("a", "b"), None),
    ],
)
def test_dotted_inline_and_quoted_keys_are_found(text, path, line):
    assert line_of(text, path) == line


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int = 1

    def __post_init__(self):
        if self.size < 0:
            raise ValueError("a part must not be negative")


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    part: Part = Part()
    sizes: dict[str, int] = {}

    def __post_init__(self):
        if "bad" in self.sizes:
            raise FieldError("is not allowed", "sizes", "bad")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("# first\nname = ", 2, "not valid TOML: Invalid value"),
        ('name = "a"\nname = "b"\n', 2, "not valid TOML: Cannot overwrite a value"),
        ('name = "a"\n\nsizes = [1,\n2\n', 3, "not valid TOML: Unclosed array"),
        ('name = "a"\n[part]\n[part]\n', 3, "not valid TOML: Cannot declare ('part',) twice"),
        ("nam = 1", 1, "unknown field 'nam'; did you mean 'name'?"),
        ('name = "a"\nsize = 1', 2, "unknown field 'size'; did you mean 'sizes'?"),
        ('name = "a"\n[part]\nname = 1', 3, "unknown field 'name' in [part]; it belongs above the first [table]"),
        ('name = "a"\n[part]\nzzz = 1', 3, "unknown field 'zzz' in [part]; the known fields are size"),
        ('[part]\nname = "a"', 2, "unknown field 'name' in [part]; it belongs above the first [table]"),
        ("[part]\nsize = 1", None, "field 'name' is missing"),
        ("name = 3", 1, "name = 3: expected str, got int"),
        ('name = "a"\npart = 3', 2, "part = 3: expected a table, got int"),
        ('name = "a"\n[part]\n# a comment\nsize = "big"', 4, 'size = "big": expected int, got str'),
        ('name = "a"\n[sizes]\ngood = 1\nbad = 2', 4, "bad = 2 is not allowed"),
        ('name = "a"\n[part]\nsize = -1', 2, "[part]: a part must not be negative"),
    ],
)
def test_an_error_is_reported_with_its_line(text, line, message):
    with pytest.raises(TomlError) as refusal:
        decode_toml(text.encode(), Document)
    assert (refusal.value.line, str(refusal.value)) == (line, message)


def test_bytes_that_are_not_utf_8_are_reported_with_their_line():
    with pytest.raises(TomlError, match="UTF-8") as refusal:
        decode_toml(b'# one\nname = "\xff"', Document)
    assert refusal.value.line == 2


def test_a_valid_document_is_decoded():
    assert decode_toml(b'name = "a"\npart.size = 4', Document) == Document(name="a", part=Part(size=4))
