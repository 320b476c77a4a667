"""Key sets: which keys a process trusts, and how they are replaced."""

import base64
import json
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import SignatureError
from edgeexit.key_set import (
    KEY_SET_TYPE,
    MAX_SETS,
    KeySet,
    Role,
    RoleKeys,
    TrustedKeys,
    decode_history,
    decode_key_set,
    encode_history,
    encode_key_set,
    shortest_history,
)
from edgeexit.signing import PrivateKey, public_key_text, sign

KIND = "application/test"
A, B, C, D = (PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 5))


def texts(*keys):
    return tuple(public_key_text(key.public_key()) for key in keys)


def role(*keys, threshold=1):
    return RoleKeys(threshold=threshold, keys=texts(*keys))


def key_set(version, *, root=(A,), root_threshold=1, policy=(B,), fleet="shop", **roles):
    return KeySet(
        fleet=fleet,
        version=version,
        roles={"root": role(*root, threshold=root_threshold), "policy": role(*policy)} | roles,
    )


def signed(document, *keys):
    return sign(encode_key_set(document), payload_type=KEY_SET_TYPE, keys=keys)


def history(*envelopes):
    return encode_history(envelopes)


def configured(*trusted, **fields):
    return TrustedKeys.configured("shop", trusted=[key.public_key() for key in trusted], **fields)


def accepts(trusted, kind, key):
    """Return whether `trusted` accepts what `key` signs for a role."""
    envelope = sign(b"payload", payload_type=KIND, keys=[key])
    try:
        return trusted.verify(envelope, payload_type=KIND, role=kind) == b"payload"
    except SignatureError:
        return False


def test_keys_of_the_configuration_have_the_roles_that_it_gives_them():
    trusted = configured(A, policy=[B.public_key()], bundle=[C.public_key()], command=[D.public_key()])
    allowed = {kind: [key for key in (A, B, C, D) if accepts(trusted, kind, key)] for kind in get_args(Role)}
    assert allowed == {"root": [A], "policy": [A, B], "bundle": [A, C], "command": [A, D]}
    assert trusted.version == 0


def test_without_keys_nothing_is_accepted():
    assert not any(accepts(configured(), kind, A) for kind in get_args(Role))


def test_a_key_set_replaces_all_keys_and_a_role_that_it_does_not_name_has_none():
    trusted = configured(A).updated(history(signed(key_set(1, root=(B,), policy=(C,)), A, B)))
    assert trusted.version == 1
    allowed = {kind: [key for key in (A, B, C) if accepts(trusted, kind, key)] for kind in get_args(Role)}
    assert allowed == {"root": [B], "policy": [C], "bundle": [], "command": []}


@pytest.mark.parametrize("signers", [(A,), (B,), (C,), (A, C)], ids=["old", "new", "unknown", "old and unknown"])
def test_a_key_set_needs_the_old_root_keys_and_its_own(signers):
    trusted = configured(A)
    with pytest.raises(SignatureError, match=r"not signed by (the root keys that are trusted now|its own root keys)"):
        trusted.updated(history(signed(key_set(1, root=(B,)), *signers)))
    assert trusted.version == 0


def test_a_policy_key_cannot_replace_the_keys():
    trusted = configured(A, policy=[B.public_key()])
    with pytest.raises(SignatureError, match="root keys"):
        trusted.updated(history(signed(key_set(1, root=(B,)), B)))


def test_the_threshold_of_the_configuration_holds_for_its_root_keys_too():
    trusted = configured(A, B, policy_threshold=2)
    assert not accepts(trusted, "policy", A)
    with pytest.raises(SignatureError, match="only 1 of the 2"):
        trusted.updated(history(signed(key_set(1, root=(A,)), A)))
    assert trusted.updated(history(signed(key_set(1, root=(A,)), A, B))).version == 1


def test_k_of_n_root_keys_are_needed():
    first = configured(A).updated(history(signed(key_set(1, root=(A, B, C), root_threshold=2), A, B)))
    second = key_set(2, root=(B, C, D), root_threshold=2)
    with pytest.raises(SignatureError, match="only 1 of the 2"):
        first.updated(history(signed(second, B)))
    assert first.updated(history(signed(second, B, C))).version == 2
    with pytest.raises(SignatureError, match="its own root keys"):
        first.updated(history(signed(second, A, B)))


def test_a_process_that_missed_sets_catches_up_through_the_history():
    sets = [
        signed(key_set(1, root=(B,)), A, B),
        signed(key_set(2, root=(C,)), B, C),
        signed(key_set(5, root=(D,)), C, D),
    ]
    with pytest.raises(SignatureError, match="root keys that are trusted now"):
        configured(A).updated(history(sets[2]))
    assert configured(A).updated(history(*sets)).version == 5
    second = configured(A).updated(history(*sets[:2]))
    assert second.updated(history(*sets)).version == 5
    assert second.updated(history(sets[2])).version == 5
    assert configured(C).updated(history(*sets)).version == 5, "a configuration that is newer than the first sets"


def test_the_stored_history_restores_the_trusted_keys_even_if_parts_arrived_one_by_one():
    trusted = configured(A)
    for envelope in (signed(key_set(1, root=(B,)), A, B), signed(key_set(2, root=(C,), policy=(D,)), B, C)):
        trusted = trusted.updated(history(envelope))
    restored = configured(A).updated(trusted.history)
    assert (restored.version, accepts(restored, "policy", D), accepts(restored, "root", A)) == (2, True, False)
    assert restored.history == trusted.history


def test_the_same_set_again_changes_nothing_and_an_older_one_is_refused():
    first, second = signed(key_set(1), A), signed(key_set(2), A)
    trusted = configured(A).updated(history(first, second))
    assert trusted.updated(history(second)) is trusted
    assert trusted.updated(history(signed(key_set(2), A, B))) is trusted, "with another signature"
    with pytest.raises(SignatureError, match="version 1, but version 2 is trusted"):
        trusted.updated(history(first))
    with pytest.raises(SignatureError, match="version 2, but version 2 is trusted"):
        trusted.updated(history(signed(key_set(2, policy=(C,)), A)))


def test_sets_that_keep_the_root_keys_follow_without_a_limit():
    trusted, published = configured(A), [signed(key_set(1, root=(B,)), A, B)]
    for version in range(2, 3 * MAX_SETS):
        published = shortest_history([*published, signed(key_set(version, root=(B,), policy=(C,)), B)])
        trusted = trusted.updated(history(*published))
    assert (trusted.version, len(published), len(decode_history(trusted.history))) == (3 * MAX_SETS - 1, 2, 2)
    restored = configured(A).updated(trusted.history)
    assert (restored.version, restored.keys("policy")) == (trusted.version, trusted.keys("policy"))
    assert configured(B).updated(history(*published)).version == trusted.version
    assert configured(A).updated(history(*published)).version == trusted.version, "one that missed all sets"


def test_a_history_keeps_the_sets_that_changed_the_root_keys():
    sets = [
        signed(key_set(1), A),
        signed(key_set(2, root=(B,)), A, B),
        signed(key_set(3, root=(B,), policy=(D,)), B),
        signed(key_set(4, root=(B, C), root_threshold=2), B, C),
        signed(key_set(5, root=(B, C), root_threshold=2), B, C),
    ]
    shortest = [sets[place] for place in (0, 1, 3, 4)]
    assert shortest_history(sets) == shortest
    trusted = configured(A).updated(history(*sets))
    assert decode_history(trusted.history) == [*shortest[1:]], "the configuration has the root key of the first set"
    for missed in (sets[:1], sets[:2], sets[:3]):
        assert configured(A).updated(history(*missed)).updated(history(*shortest)).version == 5


def test_the_root_keys_of_a_configuration_are_replaced_only_so_often():
    keys = [PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, MAX_SETS + 3)]
    trusted = configured(keys[0])
    for version, (old, new) in enumerate(pairwise(keys), start=1):
        following = history(signed(key_set(version, root=(new,)), old, new))
        if version > MAX_SETS:
            with pytest.raises(SignatureError, match="put the newest ones there"):
                trusted.updated(following)
        else:
            trusted = trusted.updated(following)
    assert trusted.version == MAX_SETS
    assert configured(keys[0]).updated(trusted.history).version == MAX_SETS


def test_nothing_changes_if_the_last_set_of_a_history_does_not_follow():
    trusted = configured(A)
    with pytest.raises(SignatureError, match="not a signed envelope"):
        trusted.updated(history(signed(key_set(1, root=(B,)), A, B), b"{}"))
    assert accepts(trusted, "root", A)


def test_a_set_of_another_fleet_is_refused():
    with pytest.raises(SignatureError, match="fleet 'other', this fleet is 'shop'"):
        configured(A).updated(history(signed(key_set(1, fleet="other"), A)))


def test_an_envelope_of_another_type_is_no_key_set():
    envelope = sign(encode_key_set(key_set(1)), payload_type=KIND, keys=[A])
    with pytest.raises(SignatureError, match="payload type"):
        configured(A).updated(history(envelope))


def hostile(**changes):
    document = json.loads(encode_key_set(key_set(1)))
    document["roles"]["policy"] |= changes.pop("policy", {})
    return document | changes


ALIAS = texts(A)[0][:-2] + chr(ord(texts(A)[0][-2]) + 1) + "="
"""Another base64 text of the bytes of key A."""
HOSTILE = {
    "a key twice": hostile(policy={"keys": [*texts(A), *texts(A)], "threshold": 2}),
    "a key twice in two texts": hostile(policy={"keys": [*texts(A), ALIAS], "threshold": 2}),
    "a key that is too short": hostile(policy={"keys": ["AAAA"]}),
    "a threshold of 0": hostile(policy={"threshold": 0}),
    "a negative threshold": hostile(policy={"threshold": -1}),
    "a threshold above the number of keys": hostile(policy={"threshold": 2}),
    "no keys": hostile(policy={"keys": []}),
    "too many keys": hostile(policy={"keys": [base64.b64encode(bytes([n]) * 32).decode() for n in range(17)]}),
    "no root": hostile(roles={"policy": {"keys": texts(B), "threshold": 1}}),
    "an unknown role": hostile(roles=hostile()["roles"] | {"admin": {"keys": texts(B), "threshold": 1}}),
    "an unknown field": hostile(expires=1),
    "version 0": hostile(version=0),
    "a version above 2^53": hostile(version=2**53 + 1),
    "a huge version": hostile(version=10**30),
    "a version that is no integer": hostile(version=1.5),
    "an empty fleet": hostile(fleet=""),
    "a fleet with a wildcard": hostile(fleet="+"),
}


@pytest.mark.parametrize("document", HOSTILE.values(), ids=HOSTILE)
def test_an_invalid_key_set_is_refused_even_if_root_signed_it(document):
    envelope = sign(json.dumps(document).encode(), payload_type=KEY_SET_TYPE, keys=[A, B])
    with pytest.raises(SignatureError, match="not a key set"):
        configured(A).updated(history(envelope))


def test_after_the_highest_version_no_set_follows():
    trusted = configured(A).updated(history(signed(key_set(2**53), A)))
    assert trusted.version == 2**53
    with pytest.raises(SignatureError, match="version 1, but version 9007199254740992 is trusted"):
        trusted.updated(history(signed(key_set(1), A)))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"[" + b"{}," * MAX_SETS + b"{}]", b"[1]", b'["' + b"x" * 300_000],
)
def test_garbage_is_no_history(content):
    with pytest.raises(SignatureError):
        configured(A).updated(content)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_with_one_kind_of_error(content):
    for decode in (configured(A).updated, decode_key_set):
        with pytest.raises(SignatureError):
            decode(content)


KEYS = st.lists(st.sampled_from((A, B, C, D)), min_size=1, max_size=4, unique=True)


@settings(max_examples=60, deadline=None)
@given(old=KEYS, new=KEYS, signers=st.lists(st.sampled_from((A, B, C, D)), max_size=6), data=st.data())
def test_a_set_is_accepted_exactly_if_both_thresholds_are_reached_by_different_keys(old, new, signers, data):
    old_threshold = data.draw(st.integers(1, len(old)))
    new_threshold = data.draw(st.integers(1, len(new)))
    first = configured(D).updated(history(signed(key_set(1, root=old, root_threshold=old_threshold), *{D, *old})))
    second = signed(key_set(2, root=new, root_threshold=new_threshold), *signers)
    enough = len({*old} & {*signers}) >= old_threshold and len({*new} & {*signers}) >= new_threshold
    try:
        assert (first.updated(history(second)).version == 2) == enough
    except SignatureError:
        assert not enough
