"""Waits for conditions in the calibrator's database while the drift demo runs, and records a timeline."""

import time
from collections.abc import Callable
from types import TracebackType

import msgspec
from edgeexit_calibration import (
    CohortAddress,
    Disagreement,
    ExitMix,
    audit_watermark,
    audited_exit_mix,
    devices,
    disagreement,
    exit_mix,
    open_database,
    policy_history,
)

from edgeexit.quickstart.fleet import Fleet, QuickstartError, ticks

_RECENT = 100
"""Number of audited samples over which a point of the timeline computes the agreement."""


class TimelinePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the fleet at one time."""

    seconds: float
    """Since the monitor was created, just after the agents were started."""
    agreement: float
    """Fraction of the last 100 audited samples, or of all if there are fewer, that agree with the final exit."""
    revision: int
    """The lowest revision that a device runs."""
    reported: int
    """Number of samples that the devices have reported, under all revisions."""
    audited: int
    """Number of audited samples in the database: the id of the newest one."""


class PhaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements on the audits of one phase of the drift demo."""

    name: str
    revision: int
    disagreement: Disagreement
    mix: ExitMix

    def mean_ms(self, cumulative_ms: tuple[float, ...]) -> float:
        """Return the mean stage latency per sample: `cumulative_ms` [K], weighted by the exit mix of this phase."""
        return sum(rate * cost for rate, cost in zip(self.mix.rates or (), cumulative_ms, strict=False))


class FleetMonitor:
    """Reads the database of a running calibrator. A context manager.

    Args:
        fleet: is checked for processes that have ended.
        cohort: whose audits and policies are read.
        on_point: is called with each new point of the timeline.

    """

    def __init__(self, fleet: Fleet, cohort: CohortAddress, *, on_point: Callable[[TimelinePoint], None]) -> None:
        self._fleet = fleet
        self._database = open_database(str(fleet.database))
        self._cohort = cohort
        self._on_point = on_point
        self._started = time.monotonic()
        self.timeline: list[TimelinePoint] = []

    def __enter__(self) -> "FleetMonitor":
        """Return the monitor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the database."""
        self._database.close()

    @property
    def seconds(self) -> float:
        """Seconds since this monitor was created."""
        return time.monotonic() - self._started

    def watermark(self) -> int:
        """Return the id of the newest audited sample, or 0 if there is none."""
        return audit_watermark(self._database, self._cohort)

    def devices_on(self, revision: int) -> int:
        """Return how many online devices run this revision or a later one."""
        return sum(
            bool(device.online) and (device.revision or 0) >= revision
            for device in devices(self._database, fleet=self._cohort.fleet)
        )

    def device_rows(self) -> list[tuple[str, str, str, str]]:
        """Return one row per device: its name, `online` or `offline`, and the kind and the revision of its policy."""
        return [
            (device.device, "online" if device.online else "offline", device.policy or "-", str(device.revision))
            for device in devices(self._database, fleet=self._cohort.fleet)
        ]

    def mean_device_latency_ms(self) -> float | None:
        """Return the mean latency of all inferences so far, as reported by the devices."""
        return exit_mix(self._database, self._cohort).mean_latency_ms

    def newest_revision(self) -> int:
        """Return the cohort's newest revision."""
        return policy_history(self._database, self._cohort)[-1].revision

    def wait(self, description: str, condition: Callable[[], bool], *, limit_s: float) -> None:
        """Record the timeline until `condition` is true.

        Args:
            description: completes the error message "timeout while waiting for ...".
            condition: is called twice per second.
            limit_s: maximum time to wait.

        Raises QuickstartError after `limit_s`, or if a process of the fleet has ended.

        """
        for _ in ticks(limit_s):
            self._fleet.check()
            self._record_point()
            if condition():
                return
        raise QuickstartError(
            f"timeout after {limit_s:g} s while waiting for {description}; see the logs in {self._fleet.folder}/logs"
        )

    def wait_for_audits(self, count: int, *, after: int, revision: int, limit_s: float) -> None:
        """Wait for `count` audited samples of a revision with ids above `after`. Raises QuickstartError as `wait`."""

        def enough() -> bool:
            measured = disagreement(self._database, self._cohort, revision=revision, after=after)
            return measured.samples >= count

        self.wait(f"{count} audited samples", enough, limit_s=limit_s)

    def phase(self, name: str, *, revision: int, after: int, until: int | None = None) -> PhaseResult:
        """Return the disagreement and the exit mix of a revision's audits in the span (after, until]."""
        return PhaseResult(
            name=name,
            revision=revision,
            disagreement=disagreement(self._database, self._cohort, revision=revision, after=after, until=until),
            mix=audited_exit_mix(self._database, self._cohort, revision=revision, after=after, until=until),
        )

    def _record_point(self) -> None:
        newest = self.watermark()
        recent = disagreement(self._database, self._cohort, after=max(0, newest - _RECENT))
        revisions = [device.revision or 0 for device in devices(self._database, fleet=self._cohort.fleet)]
        if recent.observed is None or not revisions:
            return
        point = TimelinePoint(
            seconds=self.seconds,
            agreement=1 - recent.observed,
            revision=min(revisions),
            reported=exit_mix(self._database, self._cohort).samples,
            audited=newest,
        )
        self.timeline.append(point)
        self._on_point(point)
