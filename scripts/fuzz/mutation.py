"""Changes inputs at random: bytes, and values inside JSON."""

import json
import random
from typing import Any, Final

_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30),
    *(0.5, -0.0, 1e308, 5e-324, 1.5, "", "a", "a" * 64, "0" * 64, "a\n", "\u0000", "\ud800", "é" * 300, "x" * 5000),
    *([], {}, [[]], [0] * 20, {"kind": "confidence"}, "confidence", "patience", "ztw", "-", "../x", "%s", "1e999"),
)
_TOKENS: Final = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"null",
        b"1e999",
        b"-",
        b"NaN",
        b"\\u0000",
        b"\\ud800",
        b"\xff",
        b"\x00",
    ),
    *(b"[" * 2000, b'{"a":' * 500, b"9" * 400, b" " * 1000, b"/", b"+", b"#", b"$", b"=", b"://", b"@", b"[broker]\n"),
)


def mutate(data: bytes, generator: random.Random, others: tuple[bytes, ...]) -> bytes:
    """Return a changed copy of `data`; parts of `others` may be inserted."""
    for _ in range(1 + int(generator.expovariate(0.7))):
        data = _in_json(data, generator) if generator.random() < 0.5 else _in_bytes(data, generator, others)  # noqa: PLR2004
    return data


def _in_json(data: bytes, generator: random.Random) -> bytes:
    """Replace, delete, repeat or rename one value somewhere in a JSON document."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _in_bytes(data, generator, ())
    places: list[tuple[Any, Any]] = []
    _collect(document, places)
    if not places:
        return json.dumps(generator.choice(_VALUES)).encode()
    container, key = generator.choice(places)
    action = generator.randrange(5)
    if action == 0:
        del container[key]
    elif action == 1 and isinstance(container, list):
        container[key:key] = [container[key]] * generator.choice((1, 2, 19, 300))
    elif action == 2 and isinstance(container, dict):  # noqa: PLR2004
        container[generator.choice(("added", "", "kind", "revision", f"{key}x"))] = container[key]
    else:
        other, place = generator.choice(places)
        container[key] = other[place] if action == 3 and place in _keys(other) else generator.choice(_VALUES)  # noqa: PLR2004
    try:
        return json.dumps(document, ensure_ascii=generator.random() < 0.5).encode("utf-8", "surrogatepass")  # noqa: PLR2004
    except (ValueError, RecursionError):  # a container now contains itself
        return data


def _collect(value: Any, places: list[tuple[Any, Any]], depth: int = 0) -> None:
    if depth > 100:  # noqa: PLR2004
        return
    for key in _keys(value):
        places.append((value, key))
        _collect(value[key], places, depth + 1)


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def _in_bytes(data: bytes, generator: random.Random, others: tuple[bytes, ...]) -> bytes:
    start = generator.randrange(len(data) + 1)
    end = min(len(data), start + generator.choice((0, 1, 1, 2, 4, 16, 64)))
    action = generator.randrange(5)
    if action == 0 and start < len(data):
        return data[:start] + bytes([data[start] ^ 1 << generator.randrange(8)]) + data[start + 1 :]
    if action == 1:
        return data[:start] + data[end:]
    if action == 2:  # noqa: PLR2004
        return data[:start] + data[start:end] * generator.choice((2, 3, 50)) + data[end:]
    if action == 3 and others:  # noqa: PLR2004
        other = generator.choice(others)
        place = generator.randrange(len(other) + 1)
        return data[:start] + other[place : place + generator.choice((4, 32, 256))] + data[end:]
    return data[:start] + generator.choice(_TOKENS) + data[end:]
