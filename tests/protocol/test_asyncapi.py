"""docs/protocol/asyncapi.yaml: its structure, and its schemas against the golden messages."""

import base64
import json
import re

import pytest

from tests.wire.test_golden_messages import FOLDER, MESSAGES

yaml = pytest.importorskip("yaml", reason="needs PyYAML, which the documentation's tools install")
DOCUMENT = yaml.safe_load((FOLDER.parent / "asyncapi.yaml").read_text())
BEYOND_SCHEMAS = re.compile(
    r"stranger|payload_type|changed|no_signature|other_topic|bundle|fleet|cohort\.json|no_scope|exits\.|device\.json"
    r"|calibrator|command\.start|takeover|own_root|lengths|differing_final"
    r"|newline",  # Python's `$` matches before it; ECMAScript's, which JSON Schema demands, does not
)
"""What a schema cannot find: signatures, and rules between fields or for one recipient."""


def resolve(reference):
    found = DOCUMENT
    for level in reference.removeprefix("#/").split("/"):
        found = found[level]
    return found


def references(value):
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere():
    found = set(references(DOCUMENT))
    assert len(found) > 50
    for reference in found:
        assert resolve(reference)


def test_every_topic_has_a_channel_an_operation_and_a_schema():
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {message["channel"] for message in MESSAGES} == DOCUMENT["channels"].keys()
    operated = {operation["channel"]["$ref"].rsplit("/", 1)[1] for operation in DOCUMENT["operations"].values()}
    assert operated == DOCUMENT["channels"].keys()
    for name, channel in DOCUMENT["channels"].items():
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == channel["parameters"].keys(), name


def test_patterns_are_written_for_ecmascript_and_not_for_python():
    text = (FOLDER.parent / "asyncapi.yaml").read_text()
    assert "pattern: ^" in text
    assert r"\Z" not in text


def schema_errors(jsonschema, schema, value):
    validator = jsonschema.Draft7Validator({**schema, "components": DOCUMENT["components"]})
    return [error.message for error in validator.iter_errors(value)]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["file"])
def test_the_schemas_accept_and_refuse_the_golden_messages(message):
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    try:
        value = json.loads((FOLDER / message["file"]).read_bytes())
    except ValueError:
        assert not message["valid"]
        return
    described = DOCUMENT["components"]["messages"][message["channel"]]
    errors = schema_errors(jsonschema, described["payload"], value)
    if not errors and "x-signed-content" in described:
        for envelope in value if isinstance(value, list) else [value]:
            content = json.loads(base64.b64decode(envelope["payload"]))
            errors += schema_errors(jsonschema, described["x-signed-content"], content)
    if message["valid"]:
        assert errors == []
    elif not BEYOND_SCHEMAS.search(message["file"]):
        assert errors != []
