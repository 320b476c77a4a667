"""Ed25519 keys and signed DSSE envelopes, which prove that known keys signed a policy, a bundle or a command.

DSSE v1: https://github.com/secure-systems-lab/dsse. The signature covers the type and the bytes of the payload.
"""

import base64
import hashlib
import os
import shlex
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from edgeexit.errors import SignatureError
from edgeexit.files import write_atomic

PrivateKey = Ed25519PrivateKey
PublicKey = Ed25519PublicKey

MAX_SIGNATURES: Final = 16
"""Maximum number of signatures of an envelope."""
PublicKeyText = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{43}=\Z")]
"""The 32 raw bytes of an Ed25519 public key in base64."""
_MAX_KEY_BYTES: Final = 1 << 16
_MAX_PASSPHRASE_BYTES: Final = 1023
"""The limit of OpenSSL."""
_PRIVATE_KEY: Final = b"PRIVATE KEY"
"""In the first line of every private key in PEM, encrypted or not."""
_KEY_ID_DIGITS: Final = 16
_MAX_NAMED: Final = 5
"""An error names at most so many keys of an envelope, which may contain anything."""
_OTHERS: Final = 0o077
"""Permissions of group and others."""


class Signature(msgspec.Struct, frozen=True):
    """One signature of an envelope; `sig` is base64."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope; `payload` is base64."""

    payload: str
    payload_type: str
    signatures: tuple[Signature, ...]


def generate_key(private_path: Path, *, passphrase: str | None = None) -> Path:
    """Write a new private key (PEM, mode 0600) and its public key (suffix `.pub`); return the path of the public key.

    With a passphrase, the private key is encrypted (PKCS #8). Raises SignatureError if one of the files exists: keys
    are never overwritten; and for a passphrase that is empty, too long, or not text in UTF-8.
    """
    if not private_path.name:
        raise SignatureError(f"'{private_path}' is a folder; give the name of a file, e.g. calibrator.key")
    public_path = private_path.with_suffix(".pub")
    if private_path == public_path:
        raise SignatureError(
            f"'{private_path}' is the name of a public key, because it ends in .pub; choose another name for the "
            "private key, e.g. calibrator.key"
        )
    encryption = _encryption(passphrase)
    for path in (private_path, public_path):
        if os.path.lexists(path):
            raise SignatureError(f"key '{path}' exists already; remove it first if you want to replace it")
    key = Ed25519PrivateKey.generate()
    write_atomic(private_path, _encode_private_key(key, encryption), mode=0o600)
    write_atomic(public_path, encode_public_key(key.public_key()))
    return public_path


def encode_private_key(key: PrivateKeyTypes, *, passphrase: str | None = None) -> bytes:
    """Return a private key in PEM (PKCS #8), encrypted if there is a passphrase.

    Raises SignatureError for a passphrase that is empty, too long, or not text in UTF-8.
    """
    return _encode_private_key(key, _encryption(passphrase))


def encode_public_key(key: PublicKey) -> bytes:
    """Return a public key in PEM: the content of a `.pub` file."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _encode_private_key(key: PrivateKeyTypes, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _encryption(passphrase: str | None) -> serialization.KeySerializationEncryption:
    if passphrase is None:
        return serialization.NoEncryption()
    if not passphrase:
        raise SignatureError("the passphrase is empty; give one, or create the key without a passphrase")
    try:
        encoded = passphrase.encode()
    except UnicodeEncodeError as error:  # the environment may contain any bytes
        raise SignatureError("the passphrase is not text in UTF-8; give another one") from error
    if len(encoded) > _MAX_PASSPHRASE_BYTES:
        raise SignatureError(
            f"the passphrase has {len(encoded):,} bytes, but may have at most {_MAX_PASSPHRASE_BYTES:,}; give a "
            "shorter one"
        )
    return serialization.BestAvailableEncryption(encoded)


def load_private_key(path: Path, *, passphrase: Callable[[], str] | None = None) -> PrivateKey:
    """Read an Ed25519 private key from a PEM file; see `read_private_key`. Raises SignatureError for another key."""
    key = read_private_key(path, passphrase=passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"private key '{path}' is not an Ed25519 key; create one with `edgeexit keygen`")
    return key


def read_private_key(path: Path, *, passphrase: Callable[[], str] | None = None) -> PrivateKeyTypes:
    """Read a private key of any type from a PEM file.

    `passphrase` is called only if the key is encrypted. Raises SignatureError, which names the file, if it is not
    readable, is readable by other users, is encrypted with another passphrase, or is not a private key.
    """
    content = _read_key(path, "private key", is_secret=True)
    try:
        try:
            return serialization.load_pem_private_key(content, password=None)
        except TypeError as error:  # cryptography raises it if the key needs a password
            if passphrase is None:
                raise SignatureError(f"private key '{path}' is encrypted; its passphrase is needed") from error
            return _decrypt(path, content, passphrase())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(
            f"'{path}' is not a private key; use the private key file that `edgeexit keygen` created"
        ) from error


def decode_private_key(content: bytes, *, name: str) -> PrivateKey:
    """Return the private key in the content of a PEM file. Raises SignatureError, which names it, for anything else."""
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise SignatureError(f"'{name}' is not a private key without a passphrase") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"private key '{name}' is not an Ed25519 key; create one with `edgeexit keygen`")
    return key


def _decrypt(path: Path, content: bytes, passphrase: str) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(content, password=passphrase.encode())
    except (ValueError, TypeError) as error:  # TypeError: the passphrase is empty
        raise SignatureError(f"private key '{path}' is encrypted with another passphrase") from error


def load_public_key(path: Path) -> PublicKey:
    """Read a public key from a PEM file.

    Raises SignatureError, which names the file, if it is not readable or is not an Ed25519 public key.
    """
    return decode_public_key(_read_key(path, "public key"), name=str(path))


def decode_public_key(content: bytes, *, name: str) -> PublicKey:
    """Return the public key in the content of a PEM file. Raises SignatureError, which names it, if it is not one."""
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(
            f"'{name}' is not a public key; use the .pub file that `edgeexit keygen` created"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"public key '{name}' is not an Ed25519 key; create one with `edgeexit keygen`")
    return key


def key_id(key: PublicKey) -> str:
    """Return the id of a key in envelopes and messages: the first 16 hex digits of the SHA-256 of its 32 raw bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_KEY_ID_DIGITS]


def public_key_text(key: PublicKey) -> str:
    """Return the 32 raw bytes of a public key in base64, as messages and key sets contain them."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def public_key_from_text(text: str) -> PublicKey:
    """Return the public key of `public_key_text`. Raises SignatureError for any other text."""
    try:
        key = PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise SignatureError(f"'{text[:60]}' is not a public key; it must be 32 bytes in base64") from error
    if public_key_text(key) != text:  # two texts must not mean one key
        raise SignatureError(f"'{text[:60]}' is not a public key: it is not canonical base64")
    return key


def sign(payload: bytes, *, payload_type: str, keys: Sequence[PrivateKey]) -> bytes:
    """Sign `payload` with every key and return the JSON of the DSSE envelope that contains both."""
    envelope = Envelope(
        payload=base64.b64encode(payload).decode(),
        payload_type=payload_type,
        signatures=_signatures(payload, payload_type, keys),
    )
    return msgspec.json.encode(envelope)


def add_signatures(envelope: bytes, *, payload_type: str, keys: Sequence[PrivateKey]) -> bytes:
    """Return the envelope with the signatures of further keys, e.g. of a person who signs on another machine.

    Existing signatures stay, except those that name one of `keys`. Raises SignatureError if `envelope` is not an
    envelope of this payload type, or would have more than `MAX_SIGNATURES` signatures.
    """
    decoded, payload, _ = _decode(envelope, payload_type)
    added = _signatures(payload, payload_type, keys)
    names = {signature.keyid for signature in added}
    signatures = (*(signature for signature in decoded.signatures if signature.keyid not in names), *added)
    if len(signatures) > MAX_SIGNATURES:
        raise SignatureError(
            f"an envelope has at most {MAX_SIGNATURES} signatures, this one would have {len(signatures)}"
        )
    return msgspec.json.encode(msgspec.structs.replace(decoded, signatures=signatures))


def verify(envelope: bytes, *, payload_type: str, keys: Sequence[PublicKey], threshold: int = 1) -> bytes:
    """Return the payload of an envelope that at least `threshold` different keys of `keys` signed.

    A key counts once, however often it is in `keys` and in the envelope. The key ids in the envelope are not trusted:
    a signature counts for the key that it verifies with.

    Raises SignatureError if `envelope` is not a DSSE envelope, has another payload type or more than `MAX_SIGNATURES`
    signatures, or has too few valid signatures; ValueError for a threshold below 1.
    """
    if threshold < 1:
        raise ValueError(f"a threshold of {threshold} would accept unsigned content")
    decoded, payload, signatures = _decode(envelope, payload_type)
    signed = _pre_authentication(payload_type, payload)
    valid = 0
    for key in {key.public_bytes_raw(): key for key in keys}.values():
        valid += any(_is_valid(key, signature, signed) for signature in signatures)
        if valid >= threshold:
            return payload
    signers = ", ".join(signature.keyid[:_KEY_ID_DIGITS] for signature in decoded.signatures[:_MAX_NAMED]) or "none"
    trusted = ", ".join(key_id(key) for key in keys) or "none"
    missing = "no trusted key" if not valid else f"only {valid} of the {threshold} trusted keys that are needed"
    raise SignatureError(
        f"wrong signature: {missing} signed this content (keys that it names: {signers}; trusted keys: {trusted})"
    )


def unverified(envelope: bytes, *, payload_type: str) -> tuple[bytes, int]:
    """Return the payload and the number of signatures of an envelope, for display only: nothing is verified.

    Raises SignatureError if it is not an envelope of this payload type.
    """
    _, payload, signatures = _decode(envelope, payload_type)
    return payload, len(signatures)


def _signatures(payload: bytes, payload_type: str, keys: Sequence[PrivateKey]) -> tuple[Signature, ...]:
    signed = _pre_authentication(payload_type, payload)
    return tuple(
        Signature(keyid=key_id(key.public_key()), sig=base64.b64encode(key.sign(signed)).decode()) for key in keys
    )


def _decode(envelope: bytes, payload_type: str) -> tuple[Envelope, bytes, list[bytes]]:
    """Return an envelope, its payload and its signatures; none of them is verified."""
    try:
        decoded = msgspec.json.decode(envelope, type=Envelope)
        payload = base64.b64decode(decoded.payload, validate=True)
        signatures = [base64.b64decode(signature.sig, validate=True) for signature in decoded.signatures]
    except (ValueError, RecursionError) as error:  # msgspec's and base64's errors are ValueErrors
        raise SignatureError(f"not a signed envelope: {error}") from error
    if len(signatures) > MAX_SIGNATURES:  # each costs a verification per key
        raise SignatureError(f"an envelope has at most {MAX_SIGNATURES} signatures, this one has {len(signatures):,}")
    if decoded.payload_type != payload_type:
        raise SignatureError(f"envelope has payload type '{decoded.payload_type[:100]}', not '{payload_type}'")
    return decoded, payload, signatures


def _is_valid(key: PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _read_key(path: Path, what: str, *, is_secret: bool = False) -> bytes:
    """Return the content of a key file. Raises SignatureError if it is too large, or secret and readable by others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise SignatureError(f"{what} '{path}' cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_KEY_BYTES:
        raise SignatureError(f"'{path}' is not a {what}: it is larger than {_MAX_KEY_BYTES:,} bytes")
    if is_secret and stat.S_ISREG(mode) and mode & _OTHERS and _PRIVATE_KEY in content:
        raise SignatureError(
            f"{what} '{path}' is accessible to other users (mode {stat.S_IMODE(mode):04o}), so it may not be secret; "
            f"run: chmod 600 {shlex.quote(str(path))}"
        )
    return content


def _pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: the pre-authentication encoding (PAE) of DSSE."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
