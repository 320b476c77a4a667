"""Signs audits with the identity key of the device that made them, and verifies them.

Audits steer the thresholds of a fleet, so each one names its device provably, even if a broker lets anyone publish.
"""

import base64
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeexit.errors import MessageError, SignatureError
from edgeexit.signing import public_key_from_text, public_key_text
from edgeexit.wire.messages import Audit, SignedAudit, decode, encode

_CONTEXT: Final = b"edgeexit audit v1"


def sign_audit(audit: bytes, *, topic: str, key: Ed25519PrivateKey) -> bytes:
    """Return the payload of `up/audit`: the JSON of an audit with its signature.

    The signature covers the topic, which names the device, so an audit cannot be sent again as another device's.
    Raises MessageError if the payload is larger than `MAX_BYTES`.
    """
    signature = base64.b64encode(key.sign(_signed_bytes(audit, topic))).decode()
    return encode(SignedAudit(audit=msgspec.Raw(audit), key=public_key_text(key.public_key()), signature=signature))


def verify_audit(payload: bytes, *, topic: str) -> tuple[str, Audit]:
    """Return the public key that signed the payload of an `up/audit` topic, and the audit.

    The caller decides whether the key is the device's. Raises MessageError for a wrong signature or an invalid audit.
    """
    signed = decode(payload, SignedAudit)
    audit = bytes(signed.audit)
    try:
        key = public_key_from_text(signed.key)
        key.verify(base64.b64decode(signed.signature), _signed_bytes(audit, topic))
    except SignatureError as error:
        raise MessageError(f"audit: {error}") from error
    except InvalidSignature as error:
        raise MessageError(f"audit: its key {signed.key} did not sign it for the topic '{topic}'") from error
    return signed.key, decode(audit, Audit)


def _signed_bytes(audit: bytes, topic: str) -> bytes:
    return b"%b\n%b\n%b" % (_CONTEXT, topic.encode(), audit)
