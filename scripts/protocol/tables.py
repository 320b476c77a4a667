"""Writes the tables of docs/protocol.md from the channels and the message types."""

from collections.abc import Iterator

import msgspec
from channels import CHANNELS
from fields import SCALARS, Field, describe_fields, structs_in

from edgeexit.latency import LatencyProfile
from edgeexit.policies.registry import KINDS
from edgeexit.wire import Audit, SignedAudit

BEGIN = "<!-- begin of what `python scripts/protocol` writes: {} -->\n"
END = "<!-- end of what it writes -->\n"


def with_tables(page: str) -> str:
    """Return the page with current content between each pair of markers."""
    parts = page.split(BEGIN.split("{}", maxsplit=1)[0])
    written = [parts[0]]
    for part in parts[1:]:
        name, rest = part.split(" -->\n", 1)
        _, after = rest.split(END, 1)
        written.append(f"{BEGIN.format(name)}{_SECTIONS[name]()}{END}{after}")
    return "".join(written)


def topic_table() -> str:
    """Return the table of topics."""
    lines = ["| topic below `edgeexit/v1/` | sender | retained | payload | content |", "|---|---|---|---|---|"]
    for channel in CHANNELS:
        payload = _link(channel.message)
        if channel.signed is not None:
            payload = f"{'list of ' if channel.is_list else ''}signed {_link(channel.signed.content)}"
        retained = "yes" if channel.retained else "no"
        lines.append(f"| `{channel.topic}` | {channel.sender} | {retained} | {payload} | {channel.summary} |")
    return _joined(lines)


def payload_type_table() -> str:
    """Return the table of payload types of envelopes."""
    signed = dict.fromkeys(channel.signed for channel in CHANNELS if channel.signed is not None)
    lines = ["| content | payload type |", "|---|---|"]
    lines += [f"| {_link(content)} | `{payload_type}` |" for payload_type, content in signed]
    return _joined(lines)


def scalar_table() -> str:
    """Return the table of the types that the field tables use."""
    lines = ["| type | meaning |", "|---|---|"]
    lines += [f"| {name} | {meaning} |" for name, (_, meaning) in SCALARS.items()]
    return _joined(lines)


def message_tables() -> str:
    """Return a section with the fields of every type that topics carry, but for profiles."""
    return "\n".join(_section(struct) for struct in message_types() if struct not in set(structs_in(LatencyProfile)))


def profile_tables() -> str:
    """Return a section with the fields of every type in a latency profile."""
    return "\n".join(_section(struct) for struct in structs_in(LatencyProfile))


def policy_tables() -> str:
    """Return the fields of every kind of policy."""
    return "\n".join(
        f"#### Policy kind {name}\n\n{_sentence(kind)}\n\n{_table(describe_fields(kind))}"
        for name, kind in KINDS.items()
    )


def message_types() -> list[type[msgspec.Struct]]:
    """Return every type that topics carry, each once, in the order of the topics."""
    found: dict[type[msgspec.Struct], None] = {}
    for channel in CHANNELS:
        for root in (channel.message, *(() if channel.signed is None else (channel.signed.content,))):
            found |= dict.fromkeys(structs_in(root))
        if channel.message is SignedAudit:  # it contains raw JSON
            found |= dict.fromkeys(structs_in(Audit))
    return list(found)


def _link(struct: type[msgspec.Struct]) -> str:
    return f"[{struct.__name__}](#{struct.__name__.lower()})"


def _section(struct: type[msgspec.Struct]) -> str:
    return f"### {struct.__name__}\n\n{_sentence(struct)}\n\n{_table(describe_fields(struct))}"


def _sentence(struct: type[msgspec.Struct]) -> str:
    return (struct.__doc__ or "").split("\n\n", maxsplit=1)[0].strip().replace("\n    ", " ")


def _table(fields: list[Field]) -> str:
    return _joined(["| field | type and bounds | if missing | meaning |", "|---|---|---|---|", *_rows(fields)])


def _rows(fields: list[Field]) -> Iterator[str]:
    for field in fields:
        default = "required" if field.default is None else f"`{field.default}`"
        yield f"| `{field.name}` | {_cell(field.kind)} | {default} | {_cell(field.meaning)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


_SECTIONS = {
    "topics": topic_table,
    "payload types": payload_type_table,
    "types": scalar_table,
    "messages": message_tables,
    "profile": profile_tables,
    "policy kinds": policy_tables,
}
