"""Decodes a TOML document into a struct, and tells what is wrong with its line and what would be right."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")

_ERROR: Final = re.compile(r"(?P<text>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_OWN: Final = re.compile(r"((?:`[^`]*` )+)(.*)", re.DOTALL)
_SYNTAX: Final = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)
_SHOWN_CHARACTERS: Final = 60


class TomlError(ValueError):
    """What is wrong with a document, in one line of text.

    Attributes:
        line: where, counted from 1; None where a field is missing at the top.

    """

    def __init__(self, text: str, *, line: int | None) -> None:
        super().__init__(text)
        self.line = line


def decode_toml(
    content: bytes,
    type_: type[T],
    *,
    dec_hook: Callable[[type, Any], Any] | None = None,
    instead: Mapping[str, Mapping[str, Any] | str] = MappingProxyType({}),
) -> T:
    """Return the document as a `type_`, a struct that forbids unknown fields.

    Args:
        content: of the file.
        type_: what it holds.
        dec_hook: as `msgspec.convert` takes it, for types that TOML has not.
        instead: field -> what goes before the document's own value; of a table, key -> the same.

    A struct's `__post_init__` may raise ValueError; text that begins with a field's name in backticks, and below it
    a key's, as in "`jetpack` `6.2` is ...", is told with that field's line. Raises TomlError.
    """
    try:
        text = content.decode()
        document: dict[str, Any] = msgspec.toml.decode(text)
    except UnicodeDecodeError as error:
        raise TomlError("not text in UTF-8", line=content.count(b"\n", 0, error.start) + 1) from error
    except msgspec.DecodeError as error:
        raise _syntax_error(str(error), text) from error
    for field, value in instead.items():
        if isinstance(value, str):
            document[field] = value
        elif isinstance(table := document.setdefault(field, {}), dict):
            table.update(value)
    try:
        return msgspec.convert(document, type_, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise _field_error(str(error), text, document, inspect.type_info(type_)) from error


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """Return the line, from 1, on which the statement that makes `keys` begins; None where none does.

    `text` has to be valid TOML.
    """
    for first, _, document in _statements(text):
        found: Any = document
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return first
    return None


def _statements(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield each statement's first and last line and the document as it is after it, up to one that is not valid.

    No TOML reader of the standard library tells positions, but a statement ends with its line: where the text up to
    there can be read, a statement has just ended.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    last = 0
    for end in range(1, len(lines) + 1):
        try:
            document = msgspec.toml.decode("\n".join(lines[:end]))
        except msgspec.DecodeError:
            continue  # in the midst of a value over several lines
        yield last + 1, end, document
        last = end


def _syntax_error(reason: str, text: str) -> TomlError:
    place = _SYNTAX.fullmatch(reason)
    if place is None:
        return TomlError(f"not valid TOML: {reason}", line=None)
    unfinished = max((last for _, last, _ in _statements(text)), default=0) + 1
    return TomlError(f"not valid TOML: {place[1]}", line=int(place[2] or unfinished))


def _field_error(reason: str, text: str, document: dict[str, Any], root: inspect.Type) -> TomlError:
    parts = _ERROR.fullmatch(reason)
    assert parts is not None  # noqa: S101 - the pattern takes any text
    keys = re.findall(r"\.([^.\[\]]+)", parts["path"] or "")
    table = ".".join(keys)
    inside = f" in [{table}]" if table else ""
    if unknown := _UNKNOWN.fullmatch(parts["text"]):
        hint = _right_name(unknown[1], _type_at(root, keys), root)
        return TomlError(f"unknown field '{unknown[1]}'{inside}; {hint}", line=line_of(text, [*keys, unknown[1]]))
    if missing := _MISSING.fullmatch(parts["text"]):
        return TomlError(f"field '{missing[1]}'{inside} is missing", line=line_of(text, keys) if keys else None)
    if own := _OWN.fullmatch(parts["text"]):
        keys += re.findall(r"`([^`]*)`", own[1])
        return TomlError(f"{_statement(document, keys)} {own[2]}", line=line_of(text, keys))
    wanted = _wanted(_type_at(root, keys), parts["text"])
    return TomlError(f"{_statement(document, keys)}: {wanted}", line=line_of(text, keys))


def _statement(document: Any, keys: Sequence[str]) -> str:
    """Return `key = value` as the document has it; a long value is cut, a table's is left out."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    if document is None or isinstance(document, dict):
        return f"[{'.'.join(keys)}]"
    shown = str(document) if isinstance(document, float) else msgspec.json.encode(document).decode()  # inf, nan
    cut = shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."
    return f"{keys[-1]} = {cut}"


def _right_name(name: str, here: inspect.Type | None, root: inspect.Type) -> str:
    known = _fields(here)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    if name in _fields(root):
        return "it belongs above the first [table]"
    for table, type_ in _fields(root).items():
        if name in _fields(type_):
            return f"it belongs in [{table}]"
    return f"there are {', '.join(known)}"


def _wanted(type_: inspect.Type | None, reason: str) -> str:
    if isinstance(type_, inspect.Metadata) and "description" in (type_.extra_json_schema or {}):
        return f"it has to be {(type_.extra_json_schema or {})['description']}"
    inner = getattr(type_, "item_type", type_)
    if isinstance(inner, inspect.LiteralType) and reason.startswith("Invalid enum value"):
        return f"there is no {reason.removeprefix('Invalid enum value ')}; one of {', '.join(map(str, inner.values))}"
    return reason.replace("`object`", "a table").replace("`", "").replace("Expected", "expected", 1)


def _fields(type_: inspect.Type | None) -> dict[str, inspect.Type]:
    if isinstance(type_, inspect.UnionType):  # a table that may be left out
        type_ = next((one for one in type_.types if isinstance(one, inspect.StructType)), None)
    return {field.name: field.type for field in type_.fields} if isinstance(type_, inspect.StructType) else {}


def _type_at(root: inspect.Type, keys: Sequence[str]) -> inspect.Type | None:
    found: inspect.Type | None = root
    for key in keys:
        found = _fields(found).get(key)
    return found
