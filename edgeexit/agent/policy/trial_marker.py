"""A file that exists while a policy is new, so that the next start notices that the process crashed under it."""

import contextlib
import logging
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgeexit.agent.checked_file import read_checked, write_checked
from edgeexit.policies.document import Revision

_log = logging.getLogger(__name__)

FILE: Final = "trial.json"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
"""The kernel draws it at every boot."""
_MAX_POWER_CUTS: Final = 1


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The policy that was applied last, and the boot in which it runs."""

    policy: str
    """Name of the policy's file."""
    revision: Revision
    boot: str
    """Id of the boot; empty if the system has none."""
    power_cuts: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Boots that ended while the policy was new."""


def interruption(trial: Trial, boot: str) -> str | None:
    """Return why a policy whose trial did not end must be reverted at a start in this boot, or None.

    In the same boot, only this process ended: it crashed, or was killed. In another boot, the power may have been cut
    for any reason, so the policy has a second chance.
    """
    if trial.boot == boot:
        return "the process ended without a clean stop soon after it was applied"
    if trial.power_cuts >= _MAX_POWER_CUTS:
        return f"the device restarted {trial.power_cuts + 1} times soon after it was applied"
    return None


class TrialMarker:
    """Reads, writes and removes the file. One thread at a time may use it."""

    def __init__(self, folder: Path, *, boot_id: Path = BOOT_ID) -> None:
        self._path = folder / FILE
        self._interrupted = self._read()
        self._marked: tuple[str, int] | None = None
        self._is_left = False
        try:
            self.boot = boot_id.read_text(encoding="ascii").strip()[:64]
        except (OSError, UnicodeDecodeError):  # not Linux
            self.boot = ""

    @property
    def interrupted(self) -> Trial | None:
        """The trial that an earlier process did not end; None once this process has ended one."""
        return self._interrupted

    @property
    def exists(self) -> bool:
        """True if this process has written the marker and not removed it."""
        return self._marked is not None

    def begin(self, policy: str, revision: int) -> None:
        """Write the marker for a policy that is about to be applied. Raises OSError if this fails."""
        if self._marked == (policy, revision):
            return
        before, cuts = self._interrupted, 0
        if before is not None and (before.policy, before.revision) == (policy, revision):
            cuts = before.power_cuts + (before.boot != self.boot)
        trial = Trial(policy=policy, revision=revision, boot=self.boot, power_cuts=cuts)
        write_checked(self._path, trial)
        self._marked, self._is_left = (policy, revision), False

    def end(self) -> None:
        """Remove the marker: the process runs on under the policy, or stops cleanly. `retry` repeats it."""
        if self._marked is not None or self._interrupted is not None:
            self._marked = self._interrupted = None
            self._is_left = True
            self.retry()

    def retry(self) -> None:
        """Remove a marker that could not be removed when it ended: a crash later has nothing to do with the policy."""
        if self._is_left:
            with contextlib.suppress(OSError):  # a disk that became read-only
                self._path.unlink(missing_ok=True)
                self._is_left = False

    def _read(self) -> Trial | None:
        try:
            return read_checked(self._path, Trial)
        except (OSError, ValueError) as error:
            _log.warning("the marker of the policy on trial is ignored: %s", error)
            return None
