"""Writes the AsyncAPI 3.0 document of the protocol from the channels and the message types."""

import re
from typing import Any, Final

import msgspec
import yaml
from channels import CHANNELS, Channel
from fields import describe_fields, ecma_pattern
from tables import message_types

from edgeexit.key_set import MAX_SETS
from edgeexit.policies.registry import KINDS
from edgeexit.wire import MAX_BYTES, Audit

_SCHEMAS: Final = "#/components/schemas/"
_LEVELS: Final = {
    "fleet": ("name", "Name of the fleet."),
    "shard": ("name", "Shard of the fleet; not `policy`, `heartbeat`, `keys` or `calibrator`."),
    "device": ("name", "Name of the device, unique in the fleet."),
    "bundle": ("digest", "Digest of the bundle that the device runs."),
    "cohort": ("name", "Cohort of the device."),
}


def asyncapi_document() -> str:
    """Return the document in YAML."""
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "EdgeExit fleet protocol",
            "version": "1.0.0",
            "description": "The messages between devices and calibrator, as a device sends and receives them. "
            "docs/protocol.md explains the rules; this file describes topics and payloads. "
            f"A payload has at most {MAX_BYTES} bytes.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": {_operation_name(channel): _operation(channel) for channel in CHANNELS},
        "components": {
            "messages": {channel.name: _message(channel) for channel in CHANNELS},
            "schemas": schemas(),
            "parameters": {name: {"description": text} for name, (_, text) in _LEVELS.items()},
        },
    }
    header = "# Written by `python scripts/protocol`. Do not edit.\n"
    return header + yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)


def schemas() -> dict[str, Any]:
    """Return the JSON Schema of every message type, with the meaning of its fields, by name of the type."""
    types = message_types()
    kinds = tuple(KINDS.values())
    _, found = msgspec.json.schema_components((*types, *kinds), ref_template=_SCHEMAS + "{name}")
    for struct in (*types, *kinds):
        properties = found[struct.__name__]["properties"]
        for field in describe_fields(struct):
            if field.meaning:
                properties[field.name] = _described(properties[field.name], _plain(field.meaning))
    found["Policy"] = {
        "description": "The parameters of an exit policy; `kind` names the kind.",
        "oneOf": [{"$ref": _SCHEMAS + kind.__name__} for kind in kinds],
    }
    found["PolicyDocument"]["properties"]["policy"] = {"$ref": _SCHEMAS + "Policy"}
    found["SignedAudit"]["properties"]["audit"] = {"$ref": _SCHEMAS + Audit.__name__}
    return _converted(found)


def _described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """Return a schema with a description; draft 7 ignores what stands beside `$ref`, so a reference is wrapped."""
    return {"description": text, **({"allOf": [schema]} if "$ref" in schema else schema)}


def _plain(text: str) -> str:
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)


def _converted(value: Any) -> Any:
    """Return a schema with patterns as ECMAScript writes them, and without defaults of objects."""
    if isinstance(value, dict):
        return {
            key: ecma_pattern(item) if key == "pattern" and isinstance(item, str) else _converted(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_converted(item) for item in value]
    return value


def _channel(channel: Channel) -> dict[str, Any]:
    levels = re.findall(r"\{(\w+)\}", channel.topic)
    return {
        "address": f"edgeexit/v1/{channel.topic}",
        "description": f"{channel.summary[:1].upper()}{channel.summary[1:]}. Published by: {channel.sender} only. "
        f"{'Retained.' if channel.retained else 'Not retained.'}",
        "messages": {channel.name: {"$ref": f"#/components/messages/{channel.name}"}},
        "parameters": {level: {"$ref": f"#/components/parameters/{level}"} for level in levels},
    }


def _message(channel: Channel) -> dict[str, Any]:
    payload: dict[str, Any] = {"$ref": _SCHEMAS + channel.message.__name__}
    message: dict[str, Any] = {"name": channel.name, "summary": channel.summary, "contentType": "application/json"}
    if channel.signed is not None:
        payload_type, content = channel.signed
        payload = {"allOf": [payload, {"properties": {"payloadType": {"const": payload_type}}}]}
        if channel.is_list:
            payload = {"type": "array", "minItems": 1, "maxItems": MAX_SETS, "items": payload}
        message["description"] = f"`payload` is the base64 of the JSON of a {content.__name__}."
        message["x-signed-content"] = {"$ref": _SCHEMAS + content.__name__}
    return message | {"payload": payload}


def _operation_name(channel: Channel) -> str:
    verb = "send" if channel.sender == "device" else "receive"
    return verb + "".join(part.capitalize() for part in channel.name.split("_"))


def _operation(channel: Channel) -> dict[str, Any]:
    return {
        "action": "send" if channel.sender == "device" else "receive",
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "messages": [{"$ref": f"#/channels/{channel.name}/messages/{channel.name}"}],
        "bindings": {"mqtt": {"qos": 1, "retain": channel.retained, "bindingVersion": "0.2.0"}},
    }
