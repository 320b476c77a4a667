"""Signed audits: the key in a message has one text only."""

import pytest

from edgeexit.errors import MessageError
from edgeexit.signing import PrivateKey, public_key_text
from edgeexit.wire.audit_signing import sign_audit, verify_audit

TOPIC = "edgeexit/v1/plant/s0/press-7/up/audit"
KEY = PrivateKey.from_private_bytes(bytes(32))
AUDIT = (
    b'{"start":"0123456789abcdef","sequence":1,"bundle":"' + b"a" * 64 + b'","cohort":"c","revision":0,"samples":'
    b'[{"exit":0,"top1":[1,1],"p1":[0.5,0.5],"p2":[0.5,0.5],"entropy":[1,1]}]}'
)


def test_an_audit_is_verified_for_its_topic_only():
    payload = sign_audit(AUDIT, topic=TOPIC, key=KEY)
    key, audit = verify_audit(payload, topic=TOPIC)
    assert (key, audit.sequence) == (public_key_text(KEY.public_key()), 1)
    with pytest.raises(MessageError, match="did not sign it"):
        verify_audit(payload, topic=TOPIC.replace("press-7", "press-8"))


def test_another_text_of_the_same_key_is_refused():
    """A device with one key must not look like a device with another one."""
    payload = sign_audit(AUDIT, topic=TOPIC, key=KEY)
    key = public_key_text(KEY.public_key())
    alias = key[:-2] + chr(ord(key[-2]) + 1) + "="  # the same bytes: other bits that base64 does not use
    with pytest.raises(MessageError, match="not canonical base64"):
        verify_audit(payload.replace(key.encode(), alias.encode()), topic=TOPIC)
