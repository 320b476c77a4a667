"""The fleet's key sets are published from a file, again after a replacement, and anew when the file changes."""

import pytest
from edgeexit_calibration.publishing import retained
from edgeexit_calibration.publishing.published_key_set import PublishedKeySet, read_key_sets

from edgeexit.errors import SignatureError
from edgeexit.key_set import KEY_SET_TYPE, KeySet, RoleKeys, decode_history, encode_history, encode_key_set
from edgeexit.signing import PrivateKey, load_private_key, public_key_text, sign
from edgeexit.wire import BrokerConfig, BrokerSession, SessionOptions, keys_topic
from tests.calibration.scenario import FLEET, Client, until

ROOT = PrivateKey.generate()


def history_of(policy_key, *, version=1, fleet=FLEET, signer=ROOT, threshold=1):
    keys = RoleKeys(keys=(public_key_text(ROOT.public_key()),))
    policy = RoleKeys(keys=(public_key_text(policy_key.public_key()), *keys.keys), threshold=threshold)
    key_set = KeySet(fleet=fleet, version=version, roles={"root": keys, "policy": policy})
    return encode_history([sign(encode_key_set(key_set), payload_type=KEY_SET_TYPE, keys=[signer])])


def test_a_key_set_is_published_and_kept_at_the_broker(database, tmp_path, broker, serve, key, monkeypatch, caplog):
    monkeypatch.setattr(retained, "_REPLACED_PAUSE_S", 0.0)
    path = tmp_path / "keys.json"
    first = history_of(load_private_key(key))
    path.write_bytes(first)
    client = Client(broker, keys_topic(FLEET))
    serve(key_set=path)
    until(lambda: client.of(keys_topic(FLEET))[-1:] == [first])
    client.publish(keys_topic(FLEET), b"", retain=True)
    until(lambda: client.of(keys_topic(FLEET))[-2:] == [b"", first])
    second = history_of(load_private_key(key), version=2)
    path.write_bytes(b"[]")
    until(lambda: "version 1 stays published" in caplog.text)
    path.write_bytes(second)
    until(lambda: client.of(keys_topic(FLEET))[-1] == second)
    assert "give it the right --key" not in caplog.text
    client.close()


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (b"", "not a history"),
        (b"[{}]", "key set"),
        (history_of(PrivateKey.generate(), fleet="other"), "is for fleet 'other', not for 'shop'"),
        (history_of(PrivateKey.generate(), signer=PrivateKey.generate()), "wrong signature"),
        (None, "cannot be read"),
    ],
)
def test_an_invalid_file_is_an_error_that_names_it(tmp_path, history, message):
    path = tmp_path / "keys.json"
    if history is not None:
        path.write_bytes(history)
    with pytest.raises(SignatureError, match=message) as caught:
        read_key_sets(path, fleet=FLEET)
    assert "keys.json" in str(caught.value)


def test_a_calibrator_whose_key_is_not_in_the_set_is_warned(tmp_path, caplog):
    path = tmp_path / "keys.json"
    path.write_bytes(history_of(PrivateKey.generate(), threshold=2))
    published(path, PrivateKey.generate())
    assert "2 signature(s) of 2 key(s), of which this calibrator has 0; give it the right --key" in caplog.text


def test_a_file_with_another_set_that_is_not_newer_is_not_published(database, tmp_path, broker, serve, key, caplog):
    path, policy_key = tmp_path / "keys.json", load_private_key(key)
    present = history_of(policy_key, version=5)
    path.write_bytes(present)
    client = Client(broker, keys_topic(FLEET))
    serve(key_set=path)
    until(lambda: client.of(keys_topic(FLEET))[-1:] == [present])
    path.write_bytes(history_of(policy_key, version=4))
    until(lambda: "version 4 does not follow version 5, which stays published" in caplog.text)
    path.write_bytes(history_of(policy_key, version=5, threshold=2))
    until(lambda: "version 5 does not follow version 5, which stays published" in caplog.text)
    newer = history_of(policy_key, version=6)
    path.write_bytes(newer)
    until(lambda: client.of(keys_topic(FLEET))[-1] == newer)
    assert set(client.of(keys_topic(FLEET))) == {present, newer}
    client.close()


@pytest.mark.parametrize("is_signed_by_both", [True, False])
def test_a_set_that_no_device_can_follow_causes_a_warning(tmp_path, key, caplog, is_signed_by_both):
    new_root, policy_key = PrivateKey.generate(), load_private_key(key)
    roles = {"root": role_of(new_root), "policy": role_of(policy_key)}
    document = encode_key_set(KeySet(fleet=FLEET, version=2, roles=roles))
    signers = [ROOT, new_root] if is_signed_by_both else [new_root]
    [first] = decode_history(history_of(policy_key))
    path = tmp_path / "keys.json"
    path.write_bytes(encode_history([first, sign(document, payload_type=KEY_SET_TYPE, keys=signers)]))
    published(path, policy_key)
    assert ("devices that trust the set before version 2 refuse it" in caplog.text) is not is_signed_by_both


def published(path, key):
    """Return the published key set of a calibrator that has not connected yet."""
    session = BrokerSession(
        BrokerConfig(), SessionOptions(client_id="calibrator", subscriptions=()), on_message=lambda _: None
    )
    return PublishedKeySet(session, path, fleet=FLEET, keys=[key])


def role_of(key):
    """Return a role with one key."""
    return RoleKeys(keys=(public_key_text(key.public_key()),))
