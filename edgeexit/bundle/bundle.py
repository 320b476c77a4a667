"""Open and verify a bundle, and read and replace its policy and latency profile.

The manifest contains the SHA-256 and size of every file that defines the bundle. The SHA-256 of `manifest.json` itself
is the bundle's digest, which names the bundle in messages and policy documents. `policy.json` and `profile.json` are
written after compilation and may be replaced. The digest does not cover them, so each of them contains its own
checksum, and has its own signature.

Every method reads a file once, and verifies the bytes that it returns. So a file that is replaced after the bundle was
opened is either used as a whole with a right digest, or not at all.
"""

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from edgeexit.bundle.checksummed import StoredDocument, advice, encode_checksummed, read_checksummed
from edgeexit.bundle.golden import GoldenSamples, decode_golden
from edgeexit.bundle.layout import GOLDEN, MANIFEST, MAX_BYTES, POLICY, PROFILE, PROFILE_SIGNATURE, SIGNATURE
from edgeexit.bundle.manifest import Manifest, decode_manifest
from edgeexit.bundle.signature import bundle_digests, profile_digests, verify_signature, write_signature
from edgeexit.errors import BundleError, PolicyError
from edgeexit.files import open_regular, read_descriptor, read_limited, write_atomic
from edgeexit.latency import LatencyProfile
from edgeexit.policies import PolicyDocument, decode_document, encode_document
from edgeexit.signing import PrivateKey, PublicKey


class Costs(NamedTuple):
    """Average cost of a sample that exits at each exit."""

    unit: Literal["ms", "macs"]
    cumulative: tuple[float, ...]
    """[K], increasing: cost of the stages up to each exit."""
    rejected: tuple[str, ...] = ()
    """Reasons why the latencies of the bundle's profile are not used; empty if they are, and without a profile."""


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
        self._trusted_keys: tuple[PublicKey, ...] = ()
        self._threshold = 1

    @classmethod
    def open(cls, path: Path, *, trusted_keys: Sequence[PublicKey] = ()) -> "Bundle":
        """Read a bundle and verify size and SHA-256 of all its files.

        `path` may be a link to the folder; the files in it must be regular files. If `trusted_keys` is not empty, one
        of these keys must also have signed the bundle; see `verify_signature`. Raises BundleError, which names the
        damaged or missing file.
        """
        try:
            content = read_limited(path / MANIFEST, max_bytes=MAX_BYTES[MANIFEST])
        except OSError as error:
            raise BundleError(f"'{path}' is not a bundle: {MANIFEST} cannot be read ({error.strerror})") from error
        try:
            manifest = decode_manifest(content)
        except ValueError as error:
            raise BundleError(f"bundle '{path}': {MANIFEST} is damaged: {error}; copy the bundle again") from error
        bundle = cls(path, manifest, hashlib.sha256(content).hexdigest())
        for name in manifest.files:
            for _ in bundle.read_chunks(name):
                pass
        if trusted_keys:
            bundle.verify_signature(trusted_keys)
        return bundle

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file that the manifest lists.

        Use no chunk before the last one has been yielded: only then is the SHA-256 known to be right. Raises
        BundleError if it is wrong, and if the file is missing, is not a regular file, or has another size.
        """
        with self._opened(name) as descriptor:
            yield from self._verified(name, descriptor)

    def read(self, name: str) -> bytes:
        """Return the verified content of a file that the manifest lists. Raises BundleError, as `read_chunks` does."""
        return b"".join(self.read_chunks(name))

    def map(self, name: str) -> mmap.mmap:
        """Map a file that the manifest lists into memory, read-only, from the descriptor that was verified.

        Replacing the file changes nothing, but overwriting it in place changes the mapping. Raises BundleError, as
        `read_chunks` does.
        """
        with self._opened(name) as descriptor:
            for _ in self._verified(name, descriptor):
                pass
            return mmap.mmap(descriptor, self.manifest.files[name].size, prot=mmap.PROT_READ)

    def policy(self) -> PolicyDocument | None:
        """Return the policy in `policy.json`, or None if the file does not exist.

        Raises BundleError if the file is damaged, if the policy was fitted for another bundle, number of exits or
        number of classes, and if a signature is required and does not cover it.
        """
        stored = self._stored_policy()
        return None if stored is None else self._decode_policy(stored)

    def write_policy(self, document: PolicyDocument, *, key: PrivateKey | None = None) -> None:
        """Replace `policy.json`, atomically, and sign the bundle with `key`; without a key it loses its signature.

        Raises BundleError if the file would be larger than 64 MiB; nothing is written.
        """
        content = encode_checksummed(POLICY, encode_document(document))
        (self.path / SIGNATURE).unlink(missing_ok=True)
        write_atomic(self.path / POLICY, content)
        if key is not None:
            self._sign_bundle(key)

    def profile(self) -> LatencyProfile | None:
        """Return the latency profile in `profile.json`, or None if there is none or it is of another bundle.

        Raises BundleError if the file is damaged, and if trusted keys are required and none of them made its signature.
        """
        stored = self._stored_profile()
        if stored is None:
            return None
        try:
            profile = msgspec.json.decode(stored.content, type=LatencyProfile)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BundleError(f"bundle '{self.path}': {PROFILE}: {error}; {advice(PROFILE)}") from error
        return profile if profile.bundle == self.digest else None

    def write_profile(self, profile: LatencyProfile, *, key: PrivateKey | None = None) -> None:
        """Replace `profile.json`, atomically, and sign it with `key`; without a key it loses its signature.

        Raises BundleError if the file would be larger than 16 MiB; nothing is written.
        """
        content = encode_checksummed(PROFILE, msgspec.json.encode(profile, order="deterministic"))
        (self.path / PROFILE_SIGNATURE).unlink(missing_ok=True)
        write_atomic(self.path / PROFILE, content)
        if key is not None:
            self._sign_profile(key)

    def golden(self) -> GoldenSamples:
        """Return the golden samples. Raises BundleError if the bundle has none or if they are damaged."""
        if GOLDEN not in self.manifest.files:
            raise BundleError(f"bundle '{self.path}' has no {GOLDEN}; compile it again")
        content = self.read(GOLDEN)
        try:
            return decode_golden(content, self.manifest)
        except ValueError as error:
            raise BundleError(f"bundle '{self.path}': {GOLDEN} is damaged: {error}; copy the bundle again") from error

    def costs(self, *, force: bool = False) -> Costs:
        """Return the cost of each exit: measured latency if there is a valid profile, counted MACs otherwise.

        With `force`, the latencies are used even if the profile is invalid.
        """
        profile = self.profile()
        if profile is None:
            return Costs("macs", self.manifest.macs)
        if profile.invalid and not force:
            return Costs("macs", self.manifest.macs, profile.invalid)
        return Costs("ms", profile.cumulative_ms)

    @property
    def is_signed(self) -> bool:
        """True if manifest and policy have a signature; it is not verified."""
        return os.path.lexists(self.path / SIGNATURE)

    @property
    def has_signed_profile(self) -> bool:
        """True if the profile has a signature; it is not verified."""
        return os.path.lexists(self.path / PROFILE_SIGNATURE)

    @property
    def has_unsigned_profile(self) -> bool:
        """True if there is a profile, but no signature of it."""
        return os.path.lexists(self.path / PROFILE) and not self.has_signed_profile

    def is_profile_signed_by(self, keys: Sequence[PublicKey]) -> bool:
        """Return True if one of `keys` signed the profile in `profile.sig`."""
        stored = read_checksummed(self.path / PROFILE)
        try:
            if stored is not None:
                signed = profile_digests(self.digest, stored.file_sha256)
                verify_signature(self.path / PROFILE_SIGNATURE, signed, keys)
        except BundleError:
            return False
        return stored is not None

    def verify_signature(self, keys: Sequence[PublicKey], *, threshold: int = 1) -> None:
        """Verify that `threshold` of `keys` signed manifest and policy, and the profile if it has a signature.

        From now on, `policy` and `profile` require it, too. Raises BundleError, which names the file.
        """
        signed = bundle_digests(self.digest, _file_sha256(read_checksummed(self.path / POLICY)))
        verify_signature(self.path / SIGNATURE, signed, keys, threshold=threshold)
        self._trusted_keys, self._threshold = tuple(keys), threshold
        self._stored_profile()

    def sign(self, *keys: PrivateKey) -> None:
        """Sign manifest and policy (`signature.json`), and the profile if there is one (`profile.sig`), with all keys.

        Raises BundleError if policy or profile are damaged or of another bundle.
        """
        self._sign_bundle(*keys)
        if os.path.lexists(self.path / PROFILE):
            self._sign_profile(*keys)
        else:
            (self.path / PROFILE_SIGNATURE).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """Yield the descriptor of a file that the manifest lists; turn its OSErrors into BundleErrors."""
        try:
            descriptor = open_regular(self.path / name)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BundleError(f"bundle '{self.path}': {name}: {error.strerror}; copy the bundle again") from error

    def _verified(self, name: str, descriptor: int) -> Iterator[bytes]:
        """Yield the content of an open file; raise BundleError after the last chunk if its SHA-256 is wrong."""
        spec, digest = self.manifest.files[name], hashlib.sha256()
        for chunk in read_descriptor(descriptor, size=spec.size):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != spec.sha256:
            raise BundleError(
                f"bundle '{self.path}': {name} is damaged: its SHA-256 is {digest.hexdigest()[:12]}…, the one in "
                f"{MANIFEST} is {spec.sha256[:12]}…; copy the bundle again"
            )

    def _sign_bundle(self, *keys: PrivateKey) -> None:
        stored = read_checksummed(self.path / POLICY)
        if stored is not None:
            self._decode_policy(stored)
        write_signature(self.path / SIGNATURE, bundle_digests(self.digest, _file_sha256(stored)), keys)

    def _sign_profile(self, *keys: PrivateKey) -> None:
        stored = read_checksummed(self.path / PROFILE)
        if stored is not None:
            write_signature(self.path / PROFILE_SIGNATURE, profile_digests(self.digest, stored.file_sha256), keys)

    def _stored_policy(self) -> StoredDocument | None:
        stored = read_checksummed(self.path / POLICY)
        if self._trusted_keys:
            signed = bundle_digests(self.digest, _file_sha256(stored))
            verify_signature(self.path / SIGNATURE, signed, self._trusted_keys, threshold=self._threshold)
        return stored

    def _stored_profile(self) -> StoredDocument | None:
        stored = read_checksummed(self.path / PROFILE)
        if stored is not None and self._trusted_keys and self.has_signed_profile:
            signed = profile_digests(self.digest, stored.file_sha256)
            verify_signature(self.path / PROFILE_SIGNATURE, signed, self._trusted_keys, threshold=self._threshold)
        return stored

    def _decode_policy(self, stored: StoredDocument) -> PolicyDocument:
        where = f"bundle '{self.path}': {POLICY}"
        try:
            document = decode_document(stored.content)
            document.policy.require_fits(len(self.manifest.stages), self.manifest.classes)
        except PolicyError as error:
            raise BundleError(f"{where}: {error}; {advice(POLICY)}") from error
        if document.bundle != self.digest:
            raise BundleError(
                f"{where} was fitted for bundle {document.bundle[:12]}…, this is {self.digest[:12]}…; {advice(POLICY)}"
            )
        return document


def _file_sha256(stored: StoredDocument | None) -> str | None:
    return None if stored is None else stored.file_sha256
