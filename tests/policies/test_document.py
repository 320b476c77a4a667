"""Policy documents: encoding, and the errors for wrong fields."""

import json
import re

import msgspec
import pytest

from edgeexit.errors import PolicyError
from edgeexit.policies import KINDS, AuditRule, PolicyDocument, Rollout, Scope, decode_document, encode_document
from edgeexit.policies.beem import Beem
from edgeexit.policies.confidence import Confidence
from tests.policies.policy_examples import make_policy

BUNDLE = "ab" * 32


def document(**changes: object) -> PolicyDocument:
    fields: dict[str, object] = {
        "bundle": BUNDLE,
        "revision": 3,
        "policy": Confidence(temperatures=(1.0, 1.0, 2.0), thresholds=(0.9, None)),
        "scope": Scope(fleet="shop", cohort="cameras"),
    }
    return PolicyDocument(**(fields | changes))  # type: ignore[arg-type]


def test_decoding_inverts_encoding():
    original = document(policy=Beem(temperatures=(1.0, 1.0), thresholds=(1.25,), weights=(0.5, 0.9)))
    assert decode_document(encode_document(original)) == original


def test_a_document_without_an_audit_rule_has_no_such_field_because_older_agents_would_reject_it():
    assert "audit" not in json.loads(encode_document(document()))
    ruled = document(audit=AuditRule(fraction=0.05))
    assert json.loads(encode_document(ruled))["audit"] == {"fraction": 0.05}
    assert decode_document(encode_document(ruled)) == ruled


@pytest.mark.parametrize(
    ("own", "limit", "fraction"), [(0.01, 0.2, 0.05), (0.01, 0.02, 0.02), (0.1, 0.2, 0.1), (0.3, 0.2, 0.3), (0, 1, 0)]
)
def test_a_device_audits_at_least_its_own_fraction_and_no_more_than_its_limit(own, limit, fraction):
    assert AuditRule(fraction=0.05).fraction_for(own=own, limit=limit) == fraction


def test_the_same_document_gives_the_same_bytes():
    assert encode_document(document()) == encode_document(decode_document(encode_document(document())))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            b'"thresholds":[0.9,null]',
            b'"thresholds":[0.9]',
            "thresholds has 1 entries where 2 are needed, one per early exit",
        ),
        (b'"thresholds":[0.9,null]', b'"thresholds":[0.9,null],"extra":1', "extra"),
        (b'"temperatures":[1.0,1.0,2.0]', b'"temperatures":[1.0,0.0,2.0]', "temperatures"),
        (b'"kind":"confidence"', b'"kind":"psychic"', "psychic"),
        (b'"revision":3', b'"revision":-1', "revision"),
        (b'"revision":3', b'"revision":9007199254740993', r"`int` <= 9007199254740992 - at `\$\.revision`"),
        (b'"revision":3,', b"", "revision"),
        (b'"cohort":"cameras"', b'"cohort":"a/b"', "cohort"),
        (b'"device":null', b'"device":"d"', "scope has cohort 'cameras' and device 'd'; set exactly one of the two"),
    ],
)
def test_a_wrong_field_is_refused_with_its_name(old, new, named):
    content = encode_document(document())
    assert old in content
    with pytest.raises(PolicyError, match=named):
        decode_document(content.replace(old, new))


def test_beem_needs_one_weight_per_exit():
    with pytest.raises(ValueError, match="weights has 1 entries where 2 are needed"):
        Beem(temperatures=(1.0, 1.0), thresholds=(0.5,), weights=(1.0,))


def altered(kind: str, field: str, value: object) -> bytes:
    """Return a document in which one field of the policy is replaced, or removed if `value` is ..."""
    content = json.loads(encode_document(document(policy=make_policy(kind))))
    content["policy"][field] = value
    if value is ...:
        del content["policy"][field]
    return json.dumps(content).encode()


FIELDS = [(kind, field) for kind, policy in KINDS.items() for field in msgspec.structs.asdict(make_policy(kind))]
PER_EXIT = [(kind, field) for kind, field in FIELDS if field != "classes"]
NESTED = [
    ("eenet", "class_weights"),
    ("eenet", "statistic_weights"),
    ("ztw", "weights"),
    ("ztw", "biases"),
    ("pcee", "accuracies"),
    ("cats", "weights"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_inverts_encoding_for_every_kind(kind):
    original = document(policy=make_policy(kind, seed=3))
    assert decode_document(encode_document(original)) == original
    assert original.policy.kind == kind


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_missing_field_is_named(kind, field):
    with pytest.raises(PolicyError, match=f"`{field}`"):
        decode_document(altered(kind, field, ...))


@pytest.mark.parametrize("kind", KINDS)
def test_an_extra_field_is_named(kind):
    with pytest.raises(PolicyError, match="patient"):
        decode_document(altered(kind, "patient", 1))


@pytest.mark.parametrize(("kind", "field"), PER_EXIT)
@pytest.mark.parametrize(
    "change", [lambda entries: entries[:-1], lambda entries: [*entries, entries[-1]], lambda _: []]
)
def test_a_field_of_the_wrong_length_is_named(kind, field, change):
    entries = msgspec.to_builtins(getattr(make_policy(kind), field))
    refused = "thresholds" if field == "temperatures" and len(change(list(entries))) > 1 else field
    with pytest.raises(PolicyError, match=rf"policy document: {refused} has \d+ entries"):
        decode_document(altered(kind, field, change(list(entries))))


@pytest.mark.parametrize(("kind", "field"), NESTED)
def test_an_inner_list_of_the_wrong_length_is_named_with_its_exit(kind, field):
    entries = [list(row) for row in getattr(make_policy(kind), field)]
    entries[2].append(0.5)
    with pytest.raises(PolicyError, match=re.escape(f"policy document: {field}[2] has {len(entries[2])} entries")):
        decode_document(altered(kind, field, entries))
    with pytest.raises(PolicyError, match=rf"policy document: {field}\[0\]|policy document: {field} is for"):
        decode_document(altered(kind, field, [[]] * 4))


@pytest.mark.parametrize(
    ("kind", "fields", "refusal"),
    [
        ("confidence", {"thresholds": (float("nan"),)}, "thresholds [nan] must be finite"),
        ("confidence", {"temperatures": (1.0, float("inf"))}, "temperatures [1.0, inf] must all be finite"),
        ("entropy", {"classes": 1}, "classes is for 1 classes"),
        ("beem", {"weights": (0.5, 0.0)}, "weights holds 0 where"),
        ("beem", {"weights": (0.5, 1e300)}, "weights holds 1e+300 where"),
        (
            "eenet",
            {"class_weights": ((1.0, float("nan")),)},
            "class_weights[0] holds nan where finite numbers from -1e+30 to 1e+30 are needed",
        ),
        ("eenet", {"class_weights": ((1.0,),)}, "class_weights is for 1 classes"),
        ("eenet", {"statistic_weights": ((1.0, float("inf")),)}, "statistic_weights[0] holds inf where"),
        ("ztw", {"weights": ((-0.1,),)}, "weights[0] holds -0.1 where"),
        ("ztw", {"weights": ((0.0,),)}, "weights[0] holds 0 where"),
        ("ztw", {"biases": ((0.0, float("nan")),)}, "biases[0] holds nan where"),
        ("ztw", {"biases": ((0.0,),)}, "biases is for 1 classes"),
        ("pcee", {"accuracies": ((0.5, 1.1),)}, "accuracies[0] holds 1.1 where"),
        ("pcee", {"accuracies": ((0.5, float("nan")),)}, "accuracies[0] holds nan where"),
        ("pcee", {"accuracies": ((),)}, "accuracies[0] has 0 entries"),
        ("cats", {"weights": ((0.1, 0.2, float("inf")),)}, "weights[0] holds inf where"),
        ("cats", {"biases": (float("nan"),)}, "biases holds nan where"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_field(kind, fields, refusal):
    with pytest.raises(ValueError, match=f"^{re.escape(refusal)}"):
        make_policy(kind, **({"exits": 2, "classes": 2} | fields))


def test_weights_that_allow_scores_beyond_float32_are_refused():
    with pytest.raises(
        ValueError, match=r"^statistic_weights allow scores beyond the range of float32; use smaller weights"
    ):
        make_policy("eenet", exits=3, statistic_weights=((1e30, 0.0), (0.0, 0.0, 1e30)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_classes_of_each_kind(kind):
    classes = make_policy(kind, classes=7).classes
    assert classes == (7 if kind in {"entropy", "ztw", "eenet"} else None)


def test_a_device_stays_in_a_rollout_that_grows():
    devices = [f"device-{n}" for n in range(2000)]
    reached = [{d for d in devices if Rollout(percent=p, salt="spring").includes(d)} for p in (0, 10, 50, 100)]
    assert reached[0] == set()
    assert reached[1] < reached[2] < reached[3] == set(devices)
    assert 150 < len(reached[1]) < 250
    assert reached[1] != {d for d in devices if Rollout(percent=10, salt="autumn").includes(d)}
