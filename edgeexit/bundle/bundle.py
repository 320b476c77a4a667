"""Open, verify and write a bundle: the folder that ships to a device.

The manifest names the SHA-256 of every file that makes the bundle what it is; the SHA-256 of the manifest's bytes is
the bundle's digest, its name in messages and policy documents. `policy.json` and `profile.json` come and change
later, so they stand outside the digest and carry a checksum of their own. `signature.json`, where there is one,
signs the manifest and the policy.
"""

import contextlib
import errno
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Manifest
from edgeexit.errors import BundleError, PolicyError, SignatureError
from edgeexit.files import exchange, fsync_file, fsync_folder, sha256_of, write_atomic
from edgeexit.latency import LatencyProfile
from edgeexit.npz import save_arrays
from edgeexit.policies import PolicyDocument, decode_document
from edgeexit.signing import PrivateKey, PublicKey, sign, verify

MANIFEST: Final = "manifest.json"
POLICY: Final = "policy.json"
PROFILE: Final = "profile.json"
SIGNATURE: Final = "signature.json"
GOLDEN: Final = "golden.npz"

_SIGNATURE_TYPE = "application/vnd.edgeexit.bundle-digests+json"
_AGAIN = {POLICY: "run `edgeexit fit` again", PROFILE: "run `edgeexit profile` again"}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # some libraries do not say of which file
_GOLDEN_INPUT = "input."
_GOLDEN_EXIT = "exit."


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """A few samples and what the stages, once proven, answered to them: to check a runtime on the device."""

    inputs: dict[str, npt.NDArray[Any]]
    """Model input name -> [n, ...]."""
    exits: dict[str, npt.NDArray[np.float32]]
    """Exit name -> raw output [n, C]; to segment, [n, C, H, W]."""


class Costs(NamedTuple):
    """What leaving at each exit costs, on average."""

    unit: Literal["ms", "macs"]
    cumulative: tuple[float, ...]
    """[K] increasing."""


class _Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A document and the SHA-256 of its compact JSON."""

    sha256: str
    document: msgspec.Raw


class Bundle:
    """A verified bundle on disk.

    Attributes:
        path: the folder.
        manifest: what is in it.
        digest: SHA-256 of the manifest's bytes, hex.

    """

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest

    @classmethod
    def open(cls, path: Path, *, trusted_keys: Sequence[PublicKey] = ()) -> "Bundle":
        """Read and verify a bundle.

        With `trusted_keys` it must also be signed by one of them. Raises BundleError with the name of the bad file.
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
                    f"bundle '{path}': {name} is damaged: sha256 {found[:12]}… where the manifest says "
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
        """Return the policy that ships with the bundle, or None before `edgeexit fit`.

        Raises BundleError when it is damaged or belongs to another bundle.
        """
        content = _read_sealed(self.path / POLICY)
        if content is None:
            return None
        try:
            document = decode_document(content)
        except PolicyError as error:
            raise BundleError(f"bundle '{self.path}': {POLICY}: {error}; run `edgeexit fit` again") from error
        if document.bundle != self.digest:
            raise BundleError(
                f"bundle '{self.path}': {POLICY} was fitted for bundle {document.bundle[:12]}…, this is "
                f"{self.digest[:12]}…; run `edgeexit fit` again"
            )
        if document.policy.exits != len(self.manifest.stages):
            raise BundleError(
                f"bundle '{self.path}': {POLICY} is for {document.policy.exits} exits, the bundle has "
                f"{len(self.manifest.stages)}; run `edgeexit fit` again"
            )
        if document.policy.classes not in {None, self.manifest.classes}:
            raise BundleError(
                f"bundle '{self.path}': {POLICY} is for {document.policy.classes} classes, the bundle has "
                f"{self.manifest.classes}; run `edgeexit fit` again"
            )
        return document

    def write_policy(self, document: PolicyDocument) -> None:
        """Replace the policy that ships with the bundle, atomically; a signature has to be made anew."""
        _write_sealed(self.path / POLICY, document)

    def profile(self) -> LatencyProfile | None:
        """Return the measured latency profile, or None where none was taken for this bundle."""
        content = _read_sealed(self.path / PROFILE)
        if content is None:
            return None
        try:
            profile = msgspec.json.decode(content, type=LatencyProfile)
        except msgspec.DecodeError as error:
            raise BundleError(f"bundle '{self.path}': {PROFILE}: {error}; run `edgeexit profile` again") from error
        return profile if profile.bundle == self.digest else None

    def write_profile(self, profile: LatencyProfile) -> None:
        """Replace the latency profile, atomically."""
        _write_sealed(self.path / PROFILE, profile)

    def golden(self) -> Golden:
        """Return the golden samples. Raises BundleError where the bundle has none."""
        if GOLDEN not in self.manifest.files:
            raise BundleError(f"bundle '{self.path}' has no {GOLDEN}; compile it again")
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                return Golden(
                    inputs={n[len(_GOLDEN_INPUT) :]: arrays[n] for n in arrays.files if n.startswith(_GOLDEN_INPUT)},
                    exits={n[len(_GOLDEN_EXIT) :]: arrays[n] for n in arrays.files if n.startswith(_GOLDEN_EXIT)},
                )
        except Exception as error:  # numpy, zipfile and zlib each have their own words for a broken file
            raise BundleError(f"bundle '{self.path}': {GOLDEN} is damaged: {error}") from error

    def costs(self) -> Costs:
        """Return what leaving at each exit costs: measured where there is a valid profile, counted otherwise."""
        profile = self.profile()
        if profile is None or profile.invalid is not None:
            return Costs("macs", self.manifest.macs)
        return Costs("ms", profile.cumulative_ms)

    @property
    def is_signed(self) -> bool:
        """Whether there is a signature; nothing is said of its worth."""
        return (self.path / SIGNATURE).exists()

    def verify_signature(self, keys: Sequence[PublicKey]) -> None:
        """Raise BundleError, with the name of the bad file, unless one of `keys` signed manifest and policy."""
        try:
            envelope = (self.path / SIGNATURE).read_bytes()
        except OSError as error:
            raise BundleError(
                f"bundle '{self.path}': {SIGNATURE} is missing and keys are pinned; run `edgeexit sign`"
            ) from error
        try:
            payload = verify(envelope, payload_type=_SIGNATURE_TYPE, keys=keys)
            signed: Mapping[str, str] = msgspec.json.decode(payload, type=dict[str, str])
        except (SignatureError, msgspec.DecodeError) as error:
            raise BundleError(f"bundle '{self.path}': {SIGNATURE}: {error}") from error
        present = _signed_digests(self.path)
        for name in sorted(signed.keys() | present.keys()):
            if signed.get(name) != present.get(name):
                raise BundleError(
                    f"bundle '{self.path}': {name} is not what was signed; run `edgeexit sign` on the original"
                )

    def sign(self, key: PrivateKey) -> None:
        """Write `signature.json` over the manifest and the policy that the bundle holds now."""
        payload = msgspec.json.encode(_signed_digests(self.path), order="deterministic")
        write_atomic(self.path / SIGNATURE, sign(payload, payload_type=_SIGNATURE_TYPE, key=key))


def write_golden(folder: Path, golden: Golden) -> None:
    """Write `golden.npz` into a bundle that is being made."""
    arrays = {f"{_GOLDEN_INPUT}{name}": array for name, array in golden.inputs.items()}
    arrays |= {f"{_GOLDEN_EXIT}{name}": array for name, array in golden.exits.items()}
    save_arrays(folder / GOLDEN, arrays)


@contextlib.contextmanager
def bundle_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `path` to build a bundle in, and move it to `path` when the block succeeds.

    A bundle that is replaced stands there until the new one does, where the system can exchange two folders at once.
    When the block raises, nothing is left, no folder on the way to `path` either. Raises BundleError when `path` exists
    and is not a bundle that may be replaced (`replace`), and when there is no room to write something.
    """
    if path.exists() and not replace:
        raise BundleError(f"'{path}' exists already; give another name or --force to replace it")
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"'{path}' exists and is not a bundle; it is not replaced, give another name")
    partial = f".{path.name}.partial-"
    try:
        with _made(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=partial) as scratch:
            folder = Path(scratch) / "bundle"
            folder.mkdir()
            yield folder
            for file in folder.iterdir():
                fsync_file(file)
            fsync_folder(folder)
            if not (path.exists() and exchange(folder, path)):
                if path.exists():
                    path.replace(Path(scratch) / "replaced")
                folder.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        name = str(error.filename or "")
        if partial not in name and error.errno not in _DISK_FULL:
            raise
        what = f"bundle '{path}': {Path(name).name}" if partial in name else f"bundle '{path}'"
        raise BundleError(f"{what} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder, and those above it; when the block raises, remove again what is empty of those made."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with contextlib.suppress(OSError):  # somebody else has put something there
                place.rmdir()
        raise


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of the files that stand in `folder`; `manifest.files` is filled in here."""
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir())}
    content = msgspec.json.encode(msgspec.structs.replace(manifest, files=files), order="deterministic")
    write_atomic(folder / MANIFEST, msgspec.json.format(content, indent=2) + b"\n")


def _signed_digests(path: Path) -> dict[str, str]:
    return {name: sha256_of(path / name) for name in (MANIFEST, POLICY) if (path / name).exists()}


def _write_sealed(path: Path, document: PolicyDocument | LatencyProfile) -> None:
    content = msgspec.json.encode(document, order="deterministic")
    sealed = _Sealed(sha256=hashlib.sha256(content).hexdigest(), document=msgspec.Raw(content))
    write_atomic(path, msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n")


def _read_sealed(path: Path) -> bytes | None:
    """Return the compact JSON of a sealed document, or None where there is no such file."""
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        content = msgspec.json.format(bytes(sealed.document), indent=-1)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(f"bundle '{path.parent}': {path.name} is damaged: {error}; {_AGAIN[path.name]}") from error
    if hashlib.sha256(content).hexdigest() != sealed.sha256:
        raise BundleError(
            f"bundle '{path.parent}': {path.name} is damaged: its checksum does not fit; {_AGAIN[path.name]}"
        )
    return content
