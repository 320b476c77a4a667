"""Describes the fields of the message types: their types and bounds in words, and their docstrings."""

import ast
import inspect
import itertools
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from edgeexit.policies.base import Policy
from edgeexit.policies.document import Digest, Fraction, Name, Revision
from edgeexit.wire.messages import Count, PublicKeyText, Reason, Score, SignatureText, StartId, Uptime

SCALARS: Final[Mapping[str, tuple[Any, str]]] = {
    "count": (Count, "integer from 0 to 2^63 - 1"),
    "revision": (Revision, "integer from 0 to 2^53"),
    "fraction": (Fraction, "number from 0 to 1"),
    "score": (Score, "number in the range of float32"),
    "seconds": (Uptime, "number of seconds, at least 0, on a monotonic clock"),
    "name": (Name, "string of 1 to 64 characters `A-Z a-z 0-9 _ -`"),
    "digest": (Digest, "string of 64 lower-case hex digits (a SHA-256)"),
    "start": (StartId, "string of 16 lower-case hex digits, drawn at random"),
    "reason": (Reason, "string of at most 300 characters, one line of text for people"),
    "public key": (
        PublicKeyText,
        "string of 44 characters: base64, with padding, of the 32 raw bytes of an Ed25519 key",
    ),
    "signature": (
        SignatureText,
        "string of 88 characters: base64, with padding, of the 64 bytes of an Ed25519 signature",
    ),
}
"""Name in the tables -> (annotation, meaning)."""

REPEATED: Final[Mapping[str, str]] = {
    "start": "The start of the agent; see [Identity](#identity).",
    "sequence": "Number of the message within its start; see [Identity](#identity).",
    "bundle": "Digest of the bundle.",
    "cohort": "Cohort of the device.",
    "revision": "Revision of the policy.",
    "uptime_s": "Seconds since the agent started.",
    "reason": "Why, for people.",
    "fleet": "Name of the fleet.",
    "device": "Name of the device.",
    "throttled": "Whether the machine was throttled; null if it cannot be determined.",
    "State.online": "False in the will, and in the last state before a clean disconnect.",
    "State.rejected": "The last rejection; null again once a valid policy arrives.",
    "State.reverted": "The last reversion since the start; see [The guard](#the-guard).",
    "Confirmation.counter": "Counter of the heartbeat.",
    "Report.exits": "One entry per exit of the bundle, from shallow to deep.",
    "Report.losses": "Messages that the device has given up.",
    "AuditedSample.top1": "[K] class with the highest probability at each exit.",
    "AuditedSample.p1": "[K] highest probability at each exit.",
    "AuditedSample.p2": "[K] second highest probability at each exit.",
    "AuditedSample.entropy": "[K] entropy in nats at each exit.",
    "Audit.samples": "The samples.",
    "SignedAudit.key": "Public identity key of the device.",
    "SignedAudit.signature": "Signature by this key; see [Signed audits](#signed-audits).",
    "Ack.sequences": "Messages that are stored.",
    "Ack.refused": "Messages that are not stored.",
    "Envelope.payload": "Base64 of the signed bytes.",
    "Envelope.payload_type": "Payload type, as the table of topics names it.",
    "Envelope.signatures": "One or more signatures; the order has no meaning.",
    "Signature.keyid": "First 16 hex digits of the SHA-256 of the raw public key; a hint for people.",
    "Signature.sig": "Base64 of the 64 bytes of an Ed25519 signature over the PAE.",
    "PolicyDocument.rollout": "The part of the cohort that accepts the document.",
    "LatencyBound.quantile": "Quantile q of the latencies.",
    "LatencyBound.ms": "Bound in ms: a fraction q of the samples stays below it.",
    "KeySet.roles": "Role -> its keys. `root` and `policy` must be present.",
    "RoleKeys.threshold": "How many different keys must sign; at most the number of keys.",
    "RoleKeys.keys": "Public keys, each once.",
    "Scope.cohort": "The cohort, if the document is for a cohort.",
    "Scope.device": "The device, if the document is for one device.",
    "Command.action": "`report`: publish reports now. `profile`: measure and publish a latency profile now.",
    "LatencyProfile.stages": "One entry per stage of the bundle.",
    "LatencyProfile.phases": "The phases of the measurement.",
    "LatencySummary.samples": "Number of latencies.",
    "LatencySummary.mean_ms": "Arithmetic mean.",
    "StageProfile.name": "Name of the stage in the bundle.",
    "ExitPath.exit": "Name of the exit in the bundle.",
    "ExitPath.latency": "Latency of the samples that exited here.",
    "ProfilePhase.name": "Name of the phase.",
    "ProfilePhase.start_s": "Start of the phase.",
    "ProfilePhase.end_s": "End of the phase.",
    "Telemetry.readings": "Number of readings.",
    "Telemetry.temperatures_c": "Thermal zone -> degrees Celsius.",
    "Telemetry.power_mw": "Power rail -> milliwatts.",
    "clocks_mhz": "Clock -> megahertz.",
    "fans_rpm": "Fan -> revolutions per minute.",
    "SensorRange.min": "Lowest value.",
    "SensorRange.mean": "Mean value.",
    "SensorRange.max": "Highest value.",
    "MachineLoad.load_after": "The same when the measurement ended.",
}
"""Meaning of `Type.field`, or of a field that occurs in several types. A docstring of the field is preferred."""


class Field(NamedTuple):
    """A field as the tables show it."""

    name: str
    """Name in JSON."""
    kind: str
    """Type and bounds."""
    default: str | None
    """JSON of the value that a missing field has; None if the field is required."""
    meaning: str


def describe_fields(struct: type[msgspec.Struct]) -> list[Field]:
    """Return the fields of a type in the order in which they are encoded."""
    hints = get_type_hints(struct, include_extras=True)
    documented = attribute_docs(struct)
    found = [
        Field(
            field.encode_name,
            kind_text(hints[field.name]),
            _default(field),
            documented.get(field.name)
            or REPEATED.get(f"{struct.__name__}.{field.name}")
            or REPEATED.get(field.name, ""),
        )
        for field in msgspec.structs.fields(struct)
    ]
    config = struct.__struct_config__
    if config.tag_field is not None and config.tag is not None:
        found.insert(0, Field(config.tag_field, f'`"{config.tag}"`', None, "Names the kind."))
    return found


def attribute_docs(struct: type) -> dict[str, str]:
    """Return the docstrings of the annotated attributes of a class and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if base in {object, msgspec.Struct} or base.__module__ == "builtins":
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        except (OSError, TypeError):
            continue
        for statement, following in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                found[statement.target.id] = " ".join(inspect.cleandoc(following.value.value).split())
    return found


def kind_text(hint: Any) -> str:
    """Return a type and its bounds in words."""
    scalar = next((name for name, (annotation, _) in SCALARS.items() if hint == annotation), None)
    if scalar is not None:
        return scalar
    origin = get_origin(hint)
    if origin is not None:
        return _KINDS_OF_ORIGINS[origin](get_args(hint))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return _PLAIN[hint]


def _annotated(arguments: tuple[Any, ...]) -> str:
    base, *metas = arguments
    return kind_text(base) + "".join(_bounds(base, meta) for meta in metas if isinstance(meta, msgspec.Meta))


def _union(arguments: tuple[Any, ...]) -> str:
    return " or ".join(map(kind_text, arguments))


def _tuple(arguments: tuple[Any, ...]) -> str:
    if arguments[-1] is Ellipsis:
        return f"list of {kind_text(arguments[0])}"
    return f"list of {len(arguments)}: {kind_text(arguments[0])}"


_KINDS_OF_ORIGINS: Final[Mapping[Any, Callable[[tuple[Any, ...]], str]]] = {
    Annotated: _annotated,
    Union: _union,
    types.UnionType: _union,
    Literal: lambda values: " or ".join(f'`"{value}"`' for value in values),
    tuple: _tuple,
    dict: lambda arguments: f"object: {kind_text(arguments[0])} -> {kind_text(arguments[1])}",
}
_PLAIN: Final[Mapping[Any, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    msgspec.Raw: "JSON value",
}


def _bounds(base: Any, meta: msgspec.Meta) -> str:
    unit = "characters" if base is str else "entries"
    parts = []
    if meta.ge is not None and meta.le is not None:
        parts.append(f"from {meta.ge:g} to {meta.le:g}")
    elif meta.ge is not None:
        parts.append(f"at least {meta.ge:g}")
    elif meta.le is not None:
        parts.append(f"at most {meta.le:g}")
    if meta.gt is not None:
        parts.append(f"above {meta.gt:g}")
    if meta.min_length is not None and meta.min_length == meta.max_length:
        parts.append(f"exactly {meta.max_length} {unit}")
    elif meta.max_length is not None:
        least = "at most " if meta.min_length is None else f"{meta.min_length} to "
        parts.append(f"{least}{meta.max_length} {unit}")
    elif meta.min_length is not None:
        parts.append(f"at least {meta.min_length} {unit}")
    if meta.pattern is not None:
        parts.append(f"matches `{ecma_pattern(meta.pattern)}`")
    return "".join(f", {part}" for part in parts)


def ecma_pattern(pattern: str) -> str:
    r"""Return a pattern as ECMAScript and JSON Schema write it, where `$` is the end of the string and `\Z` is not."""
    return pattern.replace(r"\Z", "$")


def _default(field: msgspec.structs.FieldInfo) -> str | None:
    if field.default is not msgspec.NODEFAULT:
        return msgspec.json.encode(field.default).decode()
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.json.encode(field.default_factory()).decode()
    return None


def structs_in(root: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """Yield a type and every type that it contains, each once, outer types first."""
    seen: list[type[msgspec.Struct]] = []
    waiting = [root]
    while waiting:
        struct = waiting.pop(0)
        if struct in seen:
            continue
        seen.append(struct)
        yield struct
        for hint in get_type_hints(struct, include_extras=True).values():
            waiting += [found for found in _structs_of(hint) if found not in seen]


def _structs_of(hint: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct) and hint is not Policy:
        yield hint
    for argument in get_args(hint):
        yield from _structs_of(argument)
