"""Sign a bundle and verify its signature.

`signature.json` is a DSSE envelope whose payload is the SHA-256 of `manifest.json` and, if present, of `policy.json`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.bundle.layout import MANIFEST, POLICY, SIGNATURE
from edgeexit.errors import BundleError, SignatureError
from edgeexit.files import sha256_of, write_atomic
from edgeexit.signing import PrivateKey, PublicKey, sign, verify

_PAYLOAD_TYPE: Final = "application/vnd.edgeexit.bundle-digests+json"
_SIGNED_FILES: Final = (MANIFEST, POLICY)


def write_signature(folder: Path, key: PrivateKey) -> None:
    """Sign the manifest and the policy that are in the bundle folder now, and write `signature.json`."""
    payload = msgspec.json.encode(_digests(folder), order="deterministic")
    write_atomic(folder / SIGNATURE, sign(payload, payload_type=_PAYLOAD_TYPE, key=key))


def verify_signature(folder: Path, keys: Sequence[PublicKey]) -> None:
    """Verify that the owner of one of `keys` signed the manifest and the policy of a bundle folder.

    Raises BundleError, which names the file, if the signature is missing or wrong, or if a signed file has changed.
    """
    try:
        envelope = (folder / SIGNATURE).read_bytes()
    except OSError as error:
        raise BundleError(
            f"bundle '{folder}': {SIGNATURE} is missing, but the bundle must be signed; run `edgeexit sign`"
        ) from error
    try:
        payload = verify(envelope, payload_type=_PAYLOAD_TYPE, keys=keys)
        signed: Mapping[str, str] = msgspec.json.decode(payload, type=dict[str, str])
    except (SignatureError, msgspec.DecodeError) as error:
        raise BundleError(f"bundle '{folder}': {SIGNATURE}: {error}") from error
    present = _digests(folder)
    for name in sorted(signed.keys() | present.keys()):
        if signed.get(name) != present.get(name):
            raise BundleError(
                f"bundle '{folder}': {name} does not match the signature; restore the signed file, or check the bundle "
                "and run `edgeexit sign` again"
            )


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in _SIGNED_FILES if (folder / name).exists()}
