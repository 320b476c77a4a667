"""The folder of plans: a plan is opened only if it is undamaged and every field of its key matches."""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from edgeexit.backends.golden_check import ExitCheck
from edgeexit.backends.tensorrt.engines.key import PlanKey, timings_name
from edgeexit.bundle.manifest import Precision
from edgeexit.files import read_limited, read_regular, write_atomic

_LOCK: Final = ".lock"
_CACHE_FILE: Final = re.compile(r"\.?(.+-[0-9a-f]{32}\.(plan|json)|[0-9a-f]{16}\.timings)(\.[^.]+)?")
"""Names of the files that the cache writes, unfinished ones included; the folder may contain other files."""
_MAX_RECORD_BYTES: Final = 16 << 20
_MAX_TIMINGS_BYTES: Final = 256 << 20
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON file beside a plan."""

    key: PlanKey
    sha256: str
    """Digest of the plan."""
    model: str
    precision: Precision
    stage: str
    batch: tuple[int, int, int]
    """Min, optimal and max batch size."""
    bytes: int
    build_seconds: float
    check: ExitCheck | None
    """The plan's logits compared with the golden samples; null if the plan was not verified."""
    gpu_layers: tuple[str, ...] | None = None
    """Layers of a DLA build that run on the GPU; null if the build was not for a DLA."""


class StoredPlan(NamedTuple):
    """A plan that was read and is undamaged."""

    path: Path
    plan: bytes
    record: PlanRecord


class PlanCache:
    """Plans in a folder. Several processes may use it at the same time.

    A plan is written before the record with its digest, each by temporary file, fsync and rename. A crash between the
    two leaves a plan that does not match its record; like any damaged plan, it is built again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_plan(self, key: PlanKey, stage: str) -> StoredPlan | None:
        """Return the plan with this key, or None if there is none or it is damaged."""
        path = self._path(key, stage)
        record = _read_record(path.with_suffix(".json"))
        if record is None or record.key != key:
            return None
        try:
            plan = b"".join(read_regular(path, size=record.bytes))
        except OSError:
            return None
        return StoredPlan(path, plan, record) if hashlib.sha256(plan).hexdigest() == record.sha256 else None

    def store_plan(self, plan: bytes, record: PlanRecord) -> Path:
        """Write a plan and its record; return the plan's path. Raises OSError (disk full, no permission)."""
        path = self._path(record.key, record.stage)
        with self._locked():  # another process may write the same plan, with other bytes
            write_atomic(path, plan)
            content = msgspec.json.encode(record, order="deterministic")
            write_atomic(path.with_suffix(".json"), msgspec.json.format(content, indent=2) + b"\n")
        return path

    def discard(self, key: PlanKey, stage: str) -> None:
        """Delete a plan, for example one whose logits are wrong."""
        with self._locked():
            for suffix in (".json", ".plan"):
                self._path(key, stage).with_suffix(suffix).unlink(missing_ok=True)

    def timings(self, key: PlanKey) -> bytes | None:
        """Return the timing cache of earlier builds with the same library and GPU, or None."""
        try:
            content = read_limited(self._timings(key), max_bytes=_MAX_TIMINGS_BYTES)
        except OSError:
            return None
        digest, timings = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return timings if hashlib.sha256(timings).digest() == digest else None

    def store_timings(self, key: PlanKey, timings: bytes) -> None:
        """Replace the timing cache of builds with the same library and GPU."""
        with self._locked():
            write_atomic(self._timings(key), hashlib.sha256(timings).digest() + timings)

    def records(self) -> dict[Path, PlanRecord]:
        """Return the record of every plan by its path; plans without a readable record are omitted."""
        found = ((path, _read_record(path.with_suffix(".json"))) for path in sorted(self.folder.glob("*.plan")))
        return {path: record for path, record in found if record is not None}

    def clear(self) -> tuple[int, int]:
        """Delete plans, records, timing caches and unfinished files; return the number of files and bytes."""
        files = size = 0
        if self.folder.is_dir():
            with self._locked():
                for path in self.folder.iterdir():
                    if _CACHE_FILE.fullmatch(path.name):
                        size += path.stat().st_size
                        path.unlink()
                        files += 1
        return files, size

    def _path(self, key: PlanKey, stage: str) -> Path:
        return self.folder / f"{stage}-{key.digest[:32]}.plan"

    def _timings(self, key: PlanKey) -> Path:
        return self.folder / f"{timings_name(key)}.timings"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the folder for writing; the operating system releases the lock of a process that dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def default_folder() -> Path:
    """Return `$XDG_CACHE_HOME/edgeexit/engines`, or `~/.cache/edgeexit/engines`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "edgeexit" / "engines"


def _read_record(path: Path) -> PlanRecord | None:
    try:
        return msgspec.json.decode(read_limited(path, max_bytes=_MAX_RECORD_BYTES), type=PlanRecord)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
