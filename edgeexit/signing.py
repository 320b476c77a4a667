"""Ed25519 keys and DSSE envelopes: who wrote a policy or a bundle.

Envelope: https://github.com/secure-systems-lab/dsse (v1). The signature covers the payload's type and bytes.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgeexit.errors import SignatureError
from edgeexit.files import write_atomic

PrivateKey = Ed25519PrivateKey
PublicKey = Ed25519PublicKey


class Signature(msgspec.Struct, frozen=True):
    """One signature of an envelope."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope; `payload` and `sig` are base64."""

    payload: str
    payload_type: str
    signatures: tuple[Signature, ...]


def generate_key(private_path: Path) -> Path:
    """Write a new private key (PEM, mode 0600) and beside it its public half (`.pub`); return the latter's path.

    Raises SignatureError when one of them is there already: a key is never overwritten.
    """
    public_path = private_path.with_suffix(".pub")
    if private_path == public_path:
        raise SignatureError(f"'{private_path}' is the name of a public key; name the private one, e.g. calibrator.key")
    for path in (private_path, public_path):
        if path.exists():
            raise SignatureError(f"key '{path}' exists already; remove it first if you mean to replace it")
    key = Ed25519PrivateKey.generate()
    encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    write_atomic(private_path, key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no_password), mode=0o600)
    write_atomic(public_path, key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public_path


def load_private_key(path: Path) -> PrivateKey:
    """Read a PEM private key. Raises SignatureError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"private key '{path}' cannot be read: {_reason(error)}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"private key '{path}' is not an Ed25519 key; make one with `edgeexit keygen`")
    return key


def load_public_key(path: Path) -> PublicKey:
    """Read a PEM public key. Raises SignatureError."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SignatureError(f"public key '{path}' cannot be read: {_reason(error)}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"'{path}' is no public key; give the .pub that `edgeexit keygen` wrote") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"public key '{path}' is not an Ed25519 key; make one with `edgeexit keygen`")
    return key


def key_id(key: PublicKey) -> str:
    """Return the first 16 hex digits of the SHA-256 of the raw public key: a name, not a proof."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def sign(payload: bytes, *, payload_type: str, key: PrivateKey) -> bytes:
    """Return the JSON of an envelope that holds `payload` and its signature."""
    signature = key.sign(_pre_authentication(payload_type, payload))
    envelope = Envelope(
        payload=base64.b64encode(payload).decode(),
        payload_type=payload_type,
        signatures=(Signature(keyid=key_id(key.public_key()), sig=base64.b64encode(signature).decode()),),
    )
    return msgspec.json.encode(envelope)


def verify(envelope: bytes, *, payload_type: str, keys: Sequence[PublicKey]) -> bytes:
    """Return the payload of an envelope that one of `keys` signed.

    Raises SignatureError: not an envelope, another payload type, or no valid signature of a trusted key.
    """
    try:
        opened = msgspec.json.decode(envelope, type=Envelope)
        payload = base64.b64decode(opened.payload, validate=True)
        signatures = [base64.b64decode(signature.sig, validate=True) for signature in opened.signatures]
    except (ValueError, RecursionError) as error:  # msgspec's and base64's errors are ValueErrors
        raise SignatureError(f"not a signed envelope: {error}") from error
    if opened.payload_type != payload_type:
        raise SignatureError(f"envelope holds '{opened.payload_type}' where '{payload_type}' is needed")
    signed = _pre_authentication(payload_type, payload)
    for key in keys:
        for signature in signatures:
            try:
                key.verify(signature, signed)
            except InvalidSignature:
                continue
            return payload
    signers = ", ".join(signature.keyid for signature in opened.signatures) or "nobody"
    trusted = ", ".join(key_id(key) for key in keys) or "none"
    raise SignatureError(f"wrong signature: signed by {signers}, trusted keys: {trusted}")


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
