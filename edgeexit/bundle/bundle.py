"""Open and verify a bundle, and read and replace its policy and latency profile.

The manifest contains the SHA-256 of every file that defines the bundle. The SHA-256 of `manifest.json` itself is the
bundle's digest, which names the bundle in messages and policy documents. `policy.json` and `profile.json` are written
after compilation and may be replaced. The digest does not cover them, so each of them contains its own checksum.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from edgeexit.bundle.checksummed import advice, read_checksummed, write_checksummed
from edgeexit.bundle.golden import GoldenSamples, read_golden
from edgeexit.bundle.layout import GOLDEN, MANIFEST, POLICY, PROFILE, SIGNATURE
from edgeexit.bundle.manifest import Manifest
from edgeexit.bundle.signature import verify_signature, write_signature
from edgeexit.errors import BundleError, PolicyError
from edgeexit.files import sha256_of
from edgeexit.latency import LatencyProfile
from edgeexit.policies import PolicyDocument, decode_document
from edgeexit.signing import PrivateKey, PublicKey


class Costs(NamedTuple):
    """Average cost of a sample that exits at each exit."""

    unit: Literal["ms", "macs"]
    cumulative: tuple[float, ...]
    """[K], increasing: cost of the stages up to each exit."""


class Bundle:
    """A verified bundle on disk.

    Attributes:
        path: the folder.
        manifest: the content of `manifest.json`.
        digest: SHA-256 of `manifest.json`, hex.

    """

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest

    @classmethod
    def open(cls, path: Path, *, trusted_keys: Sequence[PublicKey] = ()) -> "Bundle":
        """Read a bundle and verify the SHA-256 of all its files.

        If `trusted_keys` is not empty, one of these keys must also have signed the bundle. Raises BundleError, which
        names the damaged or missing file.
        """
        manifest_path = path / MANIFEST
        try:
            content = manifest_path.read_bytes()
        except OSError as error:
            raise BundleError(f"'{path}' is not a bundle: {MANIFEST} cannot be read ({error.strerror})") from error
        try:
            manifest = msgspec.json.decode(content, type=Manifest)
        except msgspec.DecodeError as error:
            raise BundleError(f"bundle '{path}': {MANIFEST} is damaged: {error}; copy the bundle again") from error
        for name, expected in manifest.files.items():
            try:
                found = sha256_of(path / name)
            except OSError as error:
                raise BundleError(f"bundle '{path}': {name}: {error.strerror}; copy the bundle again") from error
            if found != expected:
                raise BundleError(
                    f"bundle '{path}': {name} is damaged: its SHA-256 is {found[:12]}…, the one in {MANIFEST} is "
                    f"{expected[:12]}…; copy the bundle again"
                )
        for stage in manifest.stages:
            if stage.file not in manifest.files:
                raise BundleError(f"bundle '{path}': {MANIFEST} has no digest of {stage.file}; compile it again")
        bundle = cls(path, manifest, hashlib.sha256(content).hexdigest())
        if trusted_keys:
            bundle.verify_signature(trusted_keys)
        return bundle

    def policy(self) -> PolicyDocument | None:
        """Return the policy in `policy.json`, or None if the file does not exist.

        Raises BundleError if the file is damaged, or if the policy was fitted for another bundle, number of exits or
        number of classes.
        """
        content = read_checksummed(self.path / POLICY)
        if content is None:
            return None
        try:
            document = decode_document(content)
        except PolicyError as error:
            raise BundleError(f"bundle '{self.path}': {POLICY}: {error}; {advice(POLICY)}") from error
        if document.bundle != self.digest:
            raise BundleError(
                f"bundle '{self.path}': {POLICY} was fitted for bundle {document.bundle[:12]}…, this is "
                f"{self.digest[:12]}…; {advice(POLICY)}"
            )
        try:
            document.policy.require_fits(len(self.manifest.stages), self.manifest.classes)
        except PolicyError as error:
            raise BundleError(f"bundle '{self.path}': {POLICY}: {error}; {advice(POLICY)}") from error
        return document

    def write_policy(self, document: PolicyDocument) -> None:
        """Replace `policy.json`, atomically. An existing signature becomes invalid; sign the bundle again."""
        write_checksummed(self.path / POLICY, document)

    def profile(self) -> LatencyProfile | None:
        """Return the latency profile in `profile.json`, or None if there is none or it is of another bundle.

        Raises BundleError if the file is damaged.
        """
        content = read_checksummed(self.path / PROFILE)
        if content is None:
            return None
        try:
            profile = msgspec.json.decode(content, type=LatencyProfile)
        except msgspec.DecodeError as error:
            raise BundleError(f"bundle '{self.path}': {PROFILE}: {error}; {advice(PROFILE)}") from error
        return profile if profile.bundle == self.digest else None

    def write_profile(self, profile: LatencyProfile) -> None:
        """Replace `profile.json`, atomically."""
        write_checksummed(self.path / PROFILE, profile)

    def golden(self) -> GoldenSamples:
        """Return the golden samples. Raises BundleError if the bundle has none or if they are damaged."""
        if GOLDEN not in self.manifest.files:
            raise BundleError(f"bundle '{self.path}' has no {GOLDEN}; compile it again")
        return read_golden(self.path)

    def costs(self) -> Costs:
        """Return the cost of each exit: measured latency if there is a valid profile, counted MACs otherwise."""
        profile = self.profile()
        if profile is None or profile.invalid is not None:
            return Costs("macs", self.manifest.macs)
        return Costs("ms", profile.cumulative_ms)

    @property
    def is_signed(self) -> bool:
        """True if the bundle has a signature; the signature is not verified."""
        return (self.path / SIGNATURE).exists()

    def verify_signature(self, keys: Sequence[PublicKey]) -> None:
        """Verify that one of `keys` signed the manifest and the policy. Raises BundleError, which names the file."""
        verify_signature(self.path, keys)

    def sign(self, key: PrivateKey) -> None:
        """Sign the manifest and the policy that the bundle contains now; write `signature.json`."""
        write_signature(self.path, key)
