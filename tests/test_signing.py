"""Keys and signed envelopes."""

import base64
import json
import stat
from pathlib import Path

import pytest

from edgeexit.errors import SignatureError
from edgeexit.signing import (
    PrivateKey,
    add_signatures,
    generate_key,
    key_id,
    load_private_key,
    load_public_key,
    public_key_from_text,
    public_key_text,
    sign,
    verify,
)

KIND = "application/test"


@pytest.fixture
def keys(tmp_path):
    public = generate_key(tmp_path / "a.key")
    return load_private_key(tmp_path / "a.key"), load_public_key(public)


def test_verify_returns_the_signed_payload(keys):
    private, public = keys
    assert verify(sign(b"hello", payload_type=KIND, keys=[private]), payload_type=KIND, keys=[public]) == b"hello"


def test_the_envelope_follows_dsse(keys):
    """The signature covers DSSE's pre-authentication encoding, so other tools can verify it."""
    private, public = keys
    envelope = json.loads(sign(b"hello", payload_type=KIND, keys=[private]))
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    public.verify(signature, b"DSSEv1 16 application/test 5 hello")


def test_a_wrong_payload_payload_type_or_key_is_refused(keys, tmp_path):
    private, public = keys
    envelope = sign(b"hello", payload_type=KIND, keys=[private])
    changed = json.loads(envelope)
    changed["payload"] = base64.b64encode(b"hullo").decode()
    with pytest.raises(SignatureError, match="wrong signature"):
        verify(json.dumps(changed).encode(), payload_type=KIND, keys=[public])
    with pytest.raises(SignatureError, match="application/other"):
        verify(envelope, payload_type="application/other", keys=[public])
    unknown = load_public_key(generate_key(tmp_path / "b.key"))
    with pytest.raises(SignatureError, match="wrong signature"):
        verify(envelope, payload_type=KIND, keys=[unknown])
    with pytest.raises(SignatureError, match="trusted keys: none"):
        verify(envelope, payload_type=KIND, keys=[])


def test_an_error_names_few_of_the_keys_that_an_envelope_names(keys):
    private, public = keys
    envelope = json.loads(sign(b"hello", payload_type=KIND, keys=[private]))
    envelope["signatures"] = [{"keyid": "a" * 10_000, "sig": ""}] * 16
    with pytest.raises(SignatureError, match="wrong signature") as caught:
        verify(json.dumps(envelope).encode(), payload_type=KIND, keys=[public])
    assert len(str(caught.value)) < 300


GARBAGE = (
    b"",
    b"{}",
    b"\xff\x00",
    b'{"payload":"!","payloadType":"x","signatures":[]}',
    '{"payload":"é","payloadType":"x","signatures":[]}'.encode(),
    b'{"x":' + b"[" * 100_000,
)


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_as_an_envelope(keys, garbage):
    with pytest.raises(SignatureError, match="not a signed envelope"):
        verify(garbage, payload_type=KIND, keys=[keys[1]])


def test_a_private_key_has_mode_0600_and_is_never_overwritten(tmp_path):
    generate_key(tmp_path / "k.key")
    assert stat.S_IMODE((tmp_path / "k.key").stat().st_mode) == 0o600
    with pytest.raises(SignatureError, match="exists already"):
        generate_key(tmp_path / "k.key")


def test_neither_key_of_a_pair_is_overwritten(tmp_path):
    generate_key(tmp_path / "a.key")
    with pytest.raises(SignatureError, match=r"a\.pub' exists already"):
        generate_key(tmp_path / "a.pem")
    with pytest.raises(SignatureError, match="name of a public key"):
        generate_key(tmp_path / "b.pub")


def test_a_file_that_is_not_a_key_is_named(tmp_path):
    (tmp_path / "x.key").write_text("nothing")
    with pytest.raises(SignatureError, match=r"x\.key"):
        load_private_key(tmp_path / "x.key")
    with pytest.raises(SignatureError, match=r"y\.pub"):
        load_public_key(tmp_path / "y.pub")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_private_key_that_others_can_reach_is_refused_with_the_command_that_mends_it(tmp_path, mode):
    path = tmp_path / "my key.pem"
    generate_key(path)
    path.chmod(mode)
    with pytest.raises(SignatureError, match=rf"mode {mode:04o}.*run: chmod 600 '{path}'"):
        load_private_key(path)
    path.chmod(0o400)
    load_private_key(path)
    link = tmp_path / "link.pem"
    link.symlink_to(path)
    load_private_key(link)
    path.chmod(mode)
    with pytest.raises(SignatureError, match=f"mode {mode:04o}"):
        load_private_key(link)


def test_an_encrypted_key_needs_its_passphrase_and_another_key_asks_for_none(tmp_path):
    public = load_public_key(generate_key(tmp_path / "a.key", passphrase="päss"))  # noqa: S106
    with pytest.raises(SignatureError, match="is encrypted; its passphrase is needed"):
        load_private_key(tmp_path / "a.key")
    with pytest.raises(SignatureError, match="encrypted with another passphrase"):
        load_private_key(tmp_path / "a.key", passphrase=lambda: "pass")
    with pytest.raises(SignatureError, match="encrypted with another passphrase"):
        load_private_key(tmp_path / "a.key", passphrase=str)
    assert load_private_key(tmp_path / "a.key", passphrase=lambda: "päss").public_key() == public
    with pytest.raises(SignatureError, match="the passphrase is empty"):
        generate_key(tmp_path / "b.key", passphrase="")
    assert not (tmp_path / "b.key").exists()
    generate_key(tmp_path / "b.key")
    load_private_key(tmp_path / "b.key", passphrase=lambda: pytest.fail("asked for a passphrase"))


@pytest.mark.parametrize(("passphrase", "reason"), [("é" * 512, "has 1,024 bytes"), ("\udcff", "is not text in UTF-8")])
def test_a_passphrase_that_cannot_encrypt_a_key_is_refused(tmp_path, passphrase, reason):
    with pytest.raises(SignatureError, match=reason):
        generate_key(tmp_path / "release.key", passphrase=passphrase)
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "longest.key"
    generate_key(path, passphrase="a" * 1023)
    load_private_key(path, passphrase=lambda: "a" * 1023)


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_is_no_name_for_a_key(name):
    with pytest.raises(SignatureError, match="give the name of a file"):
        generate_key(Path(name))


def test_a_key_file_that_never_ends_is_refused():
    for load in (load_private_key, load_public_key):
        with pytest.raises(SignatureError, match="larger than"):
            load(Path("/dev/zero"))


def many_keys(count):
    return [PrivateKey.from_private_bytes(bytes([number + 1]) * 32) for number in range(count)]


def test_a_threshold_counts_different_keys_once():
    first, second, third = many_keys(3)
    keys = [first.public_key(), second.public_key(), first.public_key()]
    signed = sign(b"hello", payload_type=KIND, keys=[first, first, third])
    assert verify(signed, payload_type=KIND, keys=keys) == b"hello"
    with pytest.raises(SignatureError, match="only 1 of the 2 trusted keys"):
        verify(signed, payload_type=KIND, keys=keys, threshold=2)
    both = add_signatures(signed, payload_type=KIND, keys=[second])
    assert verify(both, payload_type=KIND, keys=keys, threshold=2) == b"hello"
    with pytest.raises(SignatureError, match="only 2 of the 3"):
        verify(both, payload_type=KIND, keys=keys, threshold=3)
    with pytest.raises(ValueError, match="threshold of 0"):
        verify(both, payload_type=KIND, keys=keys, threshold=0)


def test_key_ids_in_an_envelope_are_not_trusted():
    first, second = many_keys(2)
    keys = [first.public_key(), second.public_key()]
    envelope = json.loads(sign(b"hello", payload_type=KIND, keys=[first, second]))
    envelope["signatures"][0]["keyid"] = envelope["signatures"][1]["keyid"] = ""
    assert verify(json.dumps(envelope).encode(), payload_type=KIND, keys=keys, threshold=2) == b"hello"
    one = json.loads(sign(b"hello", payload_type=KIND, keys=[first]))
    one["signatures"].append({"keyid": key_id(second.public_key()), "sig": one["signatures"][0]["sig"]})
    with pytest.raises(SignatureError, match="only 1 of the 2"):
        verify(json.dumps(one).encode(), payload_type=KIND, keys=keys, threshold=2)


def test_a_signature_is_added_once_per_key_and_only_to_an_envelope_of_the_type():
    first, second = many_keys(2)
    envelope = sign(b"hello", payload_type=KIND, keys=[first])
    twice = add_signatures(add_signatures(envelope, payload_type=KIND, keys=[second]), payload_type=KIND, keys=[second])
    assert len(json.loads(twice)["signatures"]) == 2
    with pytest.raises(SignatureError, match="payload type"):
        add_signatures(envelope, payload_type="application/other", keys=[second])
    with pytest.raises(SignatureError, match="at most 16 signatures, this one would have 17"):
        add_signatures(envelope, payload_type=KIND, keys=many_keys(17)[1:])


def test_an_envelope_with_very_many_signatures_is_refused_before_they_are_verified(keys):
    envelope = sign(b"hello", payload_type=KIND, keys=[keys[0]] * 17)
    with pytest.raises(SignatureError, match="at most 16 signatures, this one has 17"):
        verify(envelope, payload_type=KIND, keys=[keys[1]])


def test_the_text_of_a_public_key_is_unique(keys):
    text = public_key_text(keys[1])
    assert public_key_from_text(text) == keys[1]
    alias = text[:-2] + chr(ord(text[-2]) + 1) + "="
    for wrong in (alias, text + "\n", text[:-4], "", "é"):
        with pytest.raises(SignatureError, match="is not a public key"):
            public_key_from_text(wrong)
