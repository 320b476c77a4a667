"""The golden messages that every implementation refuses."""

import base64
import hashlib
from collections.abc import Callable, Iterator

import msgspec
from example_messages import (
    COHORT,
    DEVICE,
    FLEET,
    START,
    TOPICS,
    encode_audit,
    make_command,
    make_counters,
    make_document,
    make_heartbeat,
    make_presence,
    make_report,
    make_sample,
    make_state,
    sign_command,
    sign_key_set,
    sign_policy,
    test_key,
)
from vector import Vector

from edgeexit.key_set import encode_history
from edgeexit.policies import Scope, encode_document
from edgeexit.policies.confidence import Confidence
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import sign
from edgeexit.wire import (
    COMMAND_TYPE,
    HEARTBEAT_TYPE,
    PRESENCE_TYPE,
    encode,
)
from edgeexit.wire.audit_signing import sign_audit


def invalid_vectors() -> Iterator[Vector]:
    """Yield the invalid messages."""

    def changed(channel: str, name: str, payload: bytes, why: str, error: str) -> Vector:
        return Vector(f"invalid/{channel}.{name}.json", channel, payload, why, error)

    state, report = encode(make_state()), encode(make_report())
    yield changed("state", "not_json", b"{", "it is not JSON", "State: Input data was truncated")
    yield changed("state", "not_utf8", b'{"cohort":"\xff"}', "a string is not UTF-8", "State: ")
    yield changed("state", "list", b"[]", "it is not an object", "Expected `object`")
    yield changed("state", "no_start", _without(state, "start"), "a required field is missing", "`start`")
    yield changed("state", "name", state.replace(b'"presses"', b'"a/b"'), "a name with a slash", "`$.cohort`")
    yield changed(
        "state", "newline", state.replace(b'"presses"', b'"presses\\n"'), "a name with a newline", "`$.cohort`"
    )
    yield changed(
        "state", "start", state.replace(START.encode(), START.upper().encode()), "upper-case hex digits", "`$.start`"
    )
    yield changed(
        "state",
        "revision",
        state.replace(b'"revision":4', b'"revision":9007199254740993'),
        "above 2^53",
        "`$.revision`",
    )
    yield changed(
        "state", "type", state.replace(b'"online":true', b'"online":1'), "a number for a boolean", "`$.online`"
    )
    yield changed("report", "negative", report.replace(b'"sequence":1', b'"sequence":-1'), "below 0", "`$.sequence`")
    yield changed(
        "report", "fraction", report.replace(b'"sequence":1', b'"sequence":1.5'), "not an integer", "`$.sequence`"
    )
    yield changed(
        "report",
        "one_exit",
        encode(make_report(exits=(make_counters(1, 1),))),
        "a bundle has at least 2 exits",
        "`$.exits`",
    )
    yield changed("report", "bins", report.replace(b'"scores":[0,', b'"scores":[', 1), "19 bins, not 20", "`$.exits[")
    yield from _invalid_signed(changed)


def _invalid_signed(changed: Callable[[str, str, bytes, str, str], Vector]) -> Iterator[Vector]:
    topic, device = TOPICS["audit"], test_key("device")
    audit = sign_audit(encode_audit(make_sample()), topic=topic, key=device)
    yield changed(
        "audit", "changed", audit.replace(b'"exit":0', b'"exit":1'), "changed after signing", "did not sign it"
    )
    elsewhere = topic.replace(DEVICE, "press-8")
    yield changed(
        "audit",
        "other_topic",
        sign_audit(encode_audit(make_sample()), topic=elsewhere, key=device),
        "signed for the topic of another device",
        "did not sign it",
    )
    yield changed("audit", "unsigned", encode_audit(make_sample()), "not signed", "missing required field `audit`")
    lengths = encode_audit(make_sample()).replace(b'"p2":[0.125,', b'"p2":[')
    yield changed(
        "audit",
        "lengths",
        sign_audit(lengths, topic=topic, key=device),
        "lists of different lengths",
        "values in every list",
    )
    too_few = encode_audit(make_sample(scores=(0.5, 0.75, 0.9))).replace(b'"scores":[0.5,', b'"scores":[')
    yield changed(
        "audit",
        "score_lengths",
        sign_audit(too_few, topic=topic, key=device),
        "not one score per exit",
        "values in every list",
    )
    high = encode_audit(make_sample(scores=(0.5, 0.75, 0.9))).replace(b'"scores":[0.5,', b'"scores":[1e39,')
    yield changed(
        "audit",
        "score_range",
        sign_audit(high, topic=topic, key=device),
        "a score beyond the range of float32",
        "Expected `float` <= 3.4028235e+38",
    )
    yield from _invalid_maps(changed)
    many = encode_audit(make_sample()).replace(b'"sequence":2', b'"sequence":"2"')
    yield changed(
        "audit", "sequence", sign_audit(many, topic=topic, key=device), "a string for a number", "`$.sequence`"
    )
    yield changed(
        "ack",
        "too_many",
        msgspec.json.encode({"start": START, "sequences": list(range(1025))}),
        "more than 1024 numbers",
        "`$.sequences`",
    )
    yield changed(
        "cohort_policy",
        "stranger",
        sign_policy(make_document(), signed_by=("stranger",)),
        "no trusted key signed it",
        "wrong signature",
    )
    yield changed(
        "cohort_policy",
        "payload_type",
        sign_policy(make_document(), kind=COMMAND_TYPE),
        "signed as another type",
        "payload type",
    )
    envelope = msgspec.json.decode(sign_policy(make_document()))
    higher = base64.b64encode(base64.b64decode(envelope["payload"]).replace(b'"revision":5', b'"revision":6')).decode()
    yield changed(
        "cohort_policy",
        "changed",
        msgspec.json.encode({**envelope, "payload": higher}),
        "changed after signing",
        "wrong signature",
    )
    yield changed(
        "cohort_policy",
        "no_signature",
        msgspec.json.encode({**envelope, "signatures": []}),
        "no signature",
        "wrong signature",
    )
    other = make_document(bundle=hashlib.sha256(b"another bundle").hexdigest())
    yield changed("cohort_policy", "bundle", sign_policy(other), "for another bundle", "it is for bundle")
    yield changed(
        "cohort_policy",
        "fleet",
        sign_policy(make_document(scope=Scope(fleet="other", cohort=COHORT))),
        "for another fleet",
        "it is for fleet",
    )
    yield changed(
        "cohort_policy",
        "cohort",
        sign_policy(make_document(scope=Scope(fleet=FLEET, cohort="other"))),
        "for another cohort",
        "it is for cohort",
    )
    yield changed(
        "cohort_policy",
        "no_scope",
        sign_policy(make_document(scope=None)),
        "for nobody",
        "names neither a cohort nor a device",
    )
    two = Confidence(temperatures=(1.0, 1.0), thresholds=(0.8,))
    yield changed(
        "cohort_policy",
        "exits",
        sign_policy(make_document(policy=two)),
        "for 2 exits, the bundle has 3",
        "is for 2 exits",
    )
    extra = encode_document(make_document()).replace(b'{"bundle"', b'{"added":1,"bundle"')
    yield changed(
        "cohort_policy",
        "unknown_field",
        sign(extra, payload_type=PAYLOAD_TYPE, keys=[test_key("calibrator")]),
        "an unknown field in a signed document, which the device could not obey",
        "unknown field `added`",
    )
    unknown = encode_document(make_document()).replace(b'"confidence"', b'"telepathy"')
    yield changed(
        "cohort_policy",
        "kind",
        sign(unknown, payload_type=PAYLOAD_TYPE, keys=[test_key("calibrator")]),
        "an unknown kind of policy",
        "telepathy",
    )
    yield changed(
        "device_policy",
        "device",
        sign_policy(make_document(scope=Scope(fleet=FLEET, device="press-8"))),
        "for another device",
        "it is for device",
    )
    yield changed("command", "unsigned", encode(make_command()), "not signed", "not a signed envelope")
    yield changed(
        "command",
        "calibrator",
        sign_command(make_command(), signed_by="calibrator"),
        "signed by a key of another role",
        "wrong signature",
    )
    yield changed(
        "command",
        "start",
        sign_command(make_command(start="f" * 16)),
        "for another start of the device",
        "command is for start",
    )
    yield changed(
        "command", "device", sign_command(make_command(device="press-8")), "for another device", "command is for device"
    )
    odd = encode(make_command()).replace(b'"report"', b'"reboot"')
    yield changed(
        "command",
        "action",
        sign(odd, payload_type=COMMAND_TYPE, keys=[test_key("operator")]),
        "an unknown action",
        "`$.action`",
    )
    stale = sign(encode(make_heartbeat()), payload_type=HEARTBEAT_TYPE, keys=[test_key("stranger")])
    yield changed("heartbeat", "stranger", stale, "no trusted key signed it", "wrong signature")
    presence = sign(msgspec.json.encode(make_presence()), payload_type=PRESENCE_TYPE, keys=[test_key("stranger")])
    yield changed("calibrator", "stranger", presence, "no trusted key signed it", "wrong signature")
    yield changed("keys", "empty", b"[]", "no key set", "1 to 32 key sets")
    alone = sign_key_set(1, "stranger", signed_by=("stranger",))
    yield changed(
        "keys",
        "takeover",
        encode_history([alone]),
        "not signed by the trusted root key",
        "root keys that are trusted now",
    )
    half = sign_key_set(1, "next-root", signed_by=("root",))
    yield changed("keys", "own_root", encode_history([half]), "not signed by its own root key", "its own root keys")


def _invalid_maps(changed: Callable[[str, str, bytes, str, str], Vector]) -> Iterator[Vector]:
    topic, device = TOPICS["audit"], test_key("device")
    maps = encode_audit(make_sample(differing=(0.5, 0.25, 0.0)))
    yield changed(
        "audit",
        "differing_lengths",
        sign_audit(maps.replace(b'"differing":[0.5,', b'"differing":['), topic=topic, key=device),
        "not one fraction of the map per exit",
        "values in every list",
    )
    yield changed(
        "audit",
        "differing_range",
        sign_audit(maps.replace(b'"differing":[0.5,', b'"differing":[1.5,'), topic=topic, key=device),
        "more than the entire map differs",
        "Expected `float` <= 1.0",
    )
    yield changed(
        "audit",
        "differing_final",
        sign_audit(maps.replace(b",0.0]}", b",0.5]}"), topic=topic, key=device),
        "the final exit differs from itself",
        "differing is 0.5 at the final exit",
    )


def _without(payload: bytes, field: str) -> bytes:
    content = msgspec.json.decode(payload)
    del content[field]
    return msgspec.json.encode(content)
