"""Decode a TOML document into a msgspec struct; each error names the field, its line and a likely fix."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
import tomli
from msgspec import inspect

T = TypeVar("T")
DecHook = Callable[[type, Any], Any]
_Keys = tuple[str, ...]

_MAX_SHOWN_CHARACTERS: Final = 60


class TomlError(ValueError):
    """The document cannot be decoded; the text is one line.

    Attributes:
        line: the line of the error, counted from 1; None if a field is missing at the top level.

    """

    def __init__(self, text: str, *, line: int | None) -> None:
        super().__init__(text)
        self.line = line


class FieldError(ValueError):
    """A struct's `__post_init__` raises this error to reject the value of one field.

    Attributes:
        problem: the end of the message, which follows "field = value", e.g. "must be finite".
        keys: the field's name; below it the key, if the field is a table.

    """

    def __init__(self, problem: str, *keys: str) -> None:
        super().__init__(f"{'.'.join(keys)} {problem}")
        self.problem = problem
        self.keys = keys


def decode_toml(
    content: bytes,
    type_: type[T],
    *,
    dec_hook: DecHook | None = None,
    overrides: Mapping[str, Mapping[str, Any] | str] = MappingProxyType({}),
) -> T:
    """Return the document as an instance of `type_`, a msgspec struct that forbids unknown fields.

    Args:
        content: the bytes of the file.
        type_: the struct.
        dec_hook: decodes types that TOML does not have, as in `msgspec.convert`.
        overrides: field -> a value that replaces the document's; for a table, key -> value.

    Raises TomlError: the text is not UTF-8 or not TOML, a field is unknown, missing or of the wrong type, or the
    struct's `__post_init__` raised FieldError.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise TomlError("not text in UTF-8", line=content.count(b"\n", 0, error.start) + 1) from error
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        at_end = error.pos >= len(error.doc)  # an array or a string is not closed: report where it begins
        line = max((last for _, last, _ in _statements(text)), default=0) + 1 if at_end else error.lineno
        raise TomlError(f"not valid TOML: {error.msg}", line=line) from error
    except RecursionError as error:
        raise TomlError("arrays or tables are nested too deeply", line=None) from error
    for field, value in overrides.items():
        if isinstance(value, str):
            document[field] = value
        elif isinstance(table := document.setdefault(field, {}), dict):
            table.update(value)
    try:
        return msgspec.convert(document, type_, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        keys, message = next(_Checker(type_, dec_hook).errors(document), ((), str(error)))
        raise TomlError(message, line=line_of(text, keys) if keys else None) from error


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """Return the first line, counted from 1, of the statement that defines `keys`; None if no statement does.

    `text` must be valid TOML.
    """
    for first, _, document in _statements(text):
        if _value(document, keys) is not None:
            return first
    return None


def _statements(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield each statement's first and last line, and the document up to and including that statement.

    No TOML parser in pure Python reports the positions of keys. But a statement ends at the end of a line: if the
    text up to a line is valid TOML, a statement ends there.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    last = 0
    for end in range(1, len(lines) + 1):
        try:
            document = tomli.loads("\n".join(lines[:end]))
        except tomli.TOMLDecodeError:
            continue  # inside a value that spans several lines
        yield last + 1, end, document
        last = end


class _Checker:
    """Finds the fields of a document that a struct rejects."""

    def __init__(self, root: type, dec_hook: DecHook | None) -> None:
        self._root = root
        self._dec_hook = dec_hook

    def errors(self, table: dict[str, Any], type_: Any = None, keys: _Keys = ()) -> Iterator[tuple[_Keys, str]]:
        """Yield the keys and the message of each error in `table`, a document or the table at `keys` in it."""
        type_ = type_ or self._root
        fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
        inside = f" in [{'.'.join(keys)}]" if keys else ""
        for name, value in table.items():
            if name in fields:
                yield from self._value_errors(value, fields[name].type, (*keys, name))
            else:
                yield (*keys, name), f"unknown field '{name}'{inside}; {self._right_place(name, list(fields))}"
        for name, field in fields.items():  # last: a missing field may be below the wrong [table]
            if field.required and name not in table:
                yield keys, f"field '{name}'{inside} is missing"
        try:
            msgspec.convert(table, type_, dec_hook=self._dec_hook)
        except msgspec.ValidationError as error:
            rejected = error.__cause__
            if isinstance(rejected, FieldError):
                path = (*keys, *rejected.keys)
                yield path, f"{_assignment(path, _value(table, rejected.keys))} {rejected.problem}"
            elif rejected is not None:
                yield keys, f"[{'.'.join(keys)}]: {rejected}" if keys else str(rejected)

    def _value_errors(self, value: Any, type_: Any, keys: _Keys) -> Iterator[tuple[_Keys, str]]:
        struct = _struct(type_)
        if struct is not None and isinstance(value, dict):
            yield from self.errors(value, struct, keys)
            return
        try:
            msgspec.convert(value, type_, dec_hook=self._dec_hook)
        except msgspec.ValidationError as error:
            yield keys, f"{_assignment(keys, value)}: {_expected(inspect.type_info(type_), value, str(error))}"

    def _right_place(self, name: str, known: list[str]) -> str:
        """Return a hint: a similar name, or the table that has the field, or all fields."""
        if similar := difflib.get_close_matches(name, known, n=1):
            return f"did you mean '{similar[0]}'?"
        top = {field.encode_name: field.type for field in msgspec.structs.fields(self._root)}
        if name in top:
            return "it belongs above the first [table]"
        for table, type_ in top.items():
            if (struct := _struct(type_)) and name in struct.__struct_encode_fields__:
                return f"it belongs in [{table}]"
        return f"the known fields are {', '.join(known)}"


def _struct(type_: Any) -> Any:
    """Return the struct of a field's type, which may be optional; None if it has none."""
    found = inspect.type_info(type_)
    options = found.types if isinstance(found, inspect.UnionType) else (found,)
    return next((option.cls for option in options if isinstance(option, inspect.StructType)), None)


def _value(table: Any, keys: Sequence[str]) -> Any:
    """Return the value at a path of keys; None if the document does not have it."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _assignment(keys: Sequence[str], value: Any) -> str:
    """Return `key = value` as in the document; a long value is cut, and a table is `[table]`."""
    if value is None or isinstance(value, dict):
        return f"[{'.'.join(keys)}]"
    shown = str(value) if isinstance(value, float) else msgspec.json.encode(value).decode()  # JSON has no inf and nan
    cut = shown if len(shown) <= _MAX_SHOWN_CHARACTERS else shown[:_MAX_SHOWN_CHARACTERS] + "..."
    return f"{keys[-1]} = {cut}"


def _expected(type_: inspect.Type, value: Any, reason: str) -> str:
    """Return what a field accepts: its description, its literals, or msgspec's own reason."""
    if isinstance(type_, inspect.Metadata):
        if description := (type_.extra_json_schema or {}).get("description"):
            return f"it must be {description}"
        type_ = type_.type
    inner = getattr(type_, "item_type", type_)
    if isinstance(inner, inspect.LiteralType):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item not in inner.values:
                return f"'{item}' is not one of {', '.join(map(str, inner.values))}"
    reason = reason.partition(" - at `")[0].replace("`object`", "a table")
    return reason.replace("`", "").replace("Expected", "expected", 1)
