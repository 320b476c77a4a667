"""Policy documents: what is accepted, what is refused and how the refusal reads."""

import pytest

from edgeexit.errors import PolicyError
from edgeexit.policies import Beem, Confidence, PolicyDocument, Rollout, Scope, decode_document, encode_document

BUNDLE = "ab" * 32


def document(**changes: object) -> PolicyDocument:
    fields: dict[str, object] = {
        "bundle": BUNDLE,
        "revision": 3,
        "policy": Confidence(temperatures=(1.0, 1.0, 2.0), thresholds=(0.9, None)),
        "scope": Scope(fleet="shop", cohort="cameras"),
    }
    return PolicyDocument(**(fields | changes))  # type: ignore[arg-type]


def test_a_document_survives_the_wire():
    original = document(policy=Beem(temperatures=(1.0, 1.0), thresholds=(1.25,), weights=(0.5, 0.9)))
    assert decode_document(encode_document(original)) == original


def test_the_same_document_gives_the_same_bytes():
    assert encode_document(document()) == encode_document(decode_document(encode_document(document())))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (b'"thresholds":[0.9,null]', b'"thresholds":[0.9]', "thresholds has 1 entries where 2 are needed"),
        (b'"thresholds":[0.9,null]', b'"thresholds":[0.9,null],"extra":1', "extra"),
        (b'"temperatures":[1.0,1.0,2.0]', b'"temperatures":[1.0,0.0,2.0]', "temperatures"),
        (b'"kind":"confidence"', b'"kind":"psychic"', "psychic"),
        (b'"revision":3', b'"revision":-1', "revision"),
        (b'"revision":3,', b"", "revision"),
        (b'"cohort":"cameras"', b'"cohort":"a/b"', "cohort"),
        (b'"device":null', b'"device":"d"', "exactly one of the two"),
    ],
)
def test_a_wrong_field_is_refused_by_name(old, new, named):
    content = encode_document(document())
    assert old in content
    with pytest.raises(PolicyError, match=named):
        decode_document(content.replace(old, new))


def test_beem_needs_a_weight_an_exit():
    with pytest.raises(ValueError, match="weights has 1 entries where 2 are needed"):
        Beem(temperatures=(1.0, 1.0), thresholds=(0.5,), weights=(1.0,))


def test_a_rollout_grows_without_letting_go():
    devices = [f"device-{n}" for n in range(2000)]
    reached = [{d for d in devices if Rollout(percent=p, salt="spring").includes(d)} for p in (0, 10, 50, 100)]
    assert reached[0] == set()
    assert reached[1] < reached[2] < reached[3] == set(devices)
    assert 150 < len(reached[1]) < 250
    assert reached[1] != {d for d in devices if Rollout(percent=10, salt="autumn").includes(d)}
