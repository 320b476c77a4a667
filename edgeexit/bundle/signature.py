"""Signatures of a bundle: `signature.json` for manifest and policy, `profile.sig` for the latency profile.

Both are DSSE envelopes over SHA-256 digests. Their payload types differ, and `profile.sig` names the bundle, so neither
can replace the other or serve another bundle.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.bundle.layout import MANIFEST, MAX_BYTES, POLICY, PROFILE, PROFILE_SIGNATURE, SIGNATURE
from edgeexit.errors import BundleError, SignatureError
from edgeexit.files import read_limited, write_atomic
from edgeexit.signing import PrivateKey, PublicKey, sign, verify

_PAYLOAD_TYPES: Final = {
    SIGNATURE: "application/vnd.edgeexit.bundle-digests+json",
    PROFILE_SIGNATURE: "application/vnd.edgeexit.profile-digest+json",
}
"""File name -> what its signature means."""


def bundle_digests(manifest: str, policy: str | None) -> dict[str, str]:
    """Return what `signature.json` signs: the SHA-256 of the manifest, and of the policy's file if there is one."""
    return {MANIFEST: manifest} | ({} if policy is None else {POLICY: policy})


def profile_digests(manifest: str, profile: str) -> dict[str, str]:
    """Return what `profile.sig` signs: the SHA-256 of the manifest and of the profile's file."""
    return {MANIFEST: manifest, PROFILE: profile}


def write_signature(path: Path, digests: Mapping[str, str], keys: Sequence[PrivateKey]) -> None:
    """Sign digests with every key and write the envelope to `signature.json` or `profile.sig`, atomically."""
    payload = msgspec.json.encode(digests, order="deterministic")
    write_atomic(path, sign(payload, payload_type=_PAYLOAD_TYPES[path.name], keys=keys))


def verify_signature(path: Path, digests: Mapping[str, str], keys: Sequence[PublicKey], *, threshold: int = 1) -> None:
    """Verify that the owners of `threshold` of `keys` signed exactly these digests in `path`.

    Raises BundleError, which names the file, if the signature is missing or wrong, or if a digest differs.
    """
    where, command = f"bundle '{path.parent}': {path.name}", "edgeexit sign"
    try:
        envelope = read_limited(path, max_bytes=MAX_BYTES[path.name])
    except FileNotFoundError as error:
        raise BundleError(f"{where} is missing, but the bundle must be signed; run `{command}`") from error
    except OSError as error:
        raise BundleError(f"{where}: {error.strerror}; run `{command}` again") from error
    try:
        payload = verify(envelope, payload_type=_PAYLOAD_TYPES[path.name], keys=keys, threshold=threshold)
        signed: Mapping[str, str] = msgspec.json.decode(payload, type=dict[str, str])
    except (SignatureError, msgspec.DecodeError) as error:
        raise BundleError(f"{where}: {error}") from error
    for name in sorted(signed.keys() | digests.keys()):
        if signed.get(name) != digests.get(name):
            raise BundleError(
                f"bundle '{path.parent}': {name} does not match the signature in {path.name}; restore the signed file, "
                f"or check the bundle and run `{command}` again"
            )
