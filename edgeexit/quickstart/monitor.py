"""Waits for conditions in the calibrator's database while the drift demo runs, and records a timeline."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
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

from edgeexit.quickstart.fleet import DEVICES, Fleet, QuickstartError, ticks

_RECENT = 100
"""Number of audited samples over which a point of the timeline computes the agreement."""


class TimelinePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the fleet at one time."""

    seconds: float
    """Since the monitor was created, when the calibrator had been started."""
    agreement: float
    """Fraction of the last 100 audited samples, or of all if there are fewer, that agree with the final exit."""
    rates: tuple[float, ...]
    """[K] fractions of these samples that exited at each exit."""
    revision: int
    """The lowest revision that a device runs."""
    reported: int
    """Number of samples that the devices have reported, under all revisions."""
    audited: int
    """Number of audited samples in the database: the id of the newest one."""


class RevisionResult(msgspec.Struct, frozen=True, kw_only=True):
    """A revision of the policy, and why the calibrator created it."""

    revision: int
    seconds: float
    """When it was created, since the monitor was; negative: before."""
    reason: str
    samples: int
    """Number of audited samples under it."""

    @property
    def change(self) -> str:
        """The first words of the reason, e.g. `stepped back`."""
        return self.reason.partition(":")[0]


class PhaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements on the audits of one phase of the drift demo."""

    name: str
    revision: int
    """The newest revision of these audits."""
    disagreement: Disagreement
    mix: ExitMix

    def mean_ms(self, cumulative_ms: Sequence[float]) -> float:
        """Return the mean stage latency per sample: `cumulative_ms` [K], weighted by the exit mix of this phase."""
        return mean_cost(self.mix.rates or (), cumulative_ms)


def mean_cost(rates: Sequence[float], costs: Sequence[float]) -> float:
    """Return the mean cost per sample of an exit mix [K], in the unit of the cumulative `costs` [K]."""
    return sum(rate * cost for rate, cost in zip(rates, costs, strict=False))


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
        self._started_at = datetime.now(timezone.utc)
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
        return policy_history(self._database, self._cohort, limit=1)[-1].revision

    def is_published(self) -> bool:
        """Return whether the broker has accepted the cohort's newest revision."""
        return policy_history(self._database, self._cohort, limit=1)[-1].published_at is not None

    def newest_is_in_force(self) -> bool:
        """Return whether all devices are online and run the cohort's newest revision."""
        return self.devices_on(self.newest_revision()) == len(DEVICES)

    def step_back_after(self, revision: int) -> int | None:
        """Return the newest revision above `revision` with which the calibrator stepped back, or None."""
        back = [one.revision for one in self.revisions() if one.change == "stepped back" and one.revision > revision]
        return back[-1] if back else None

    def revisions(self) -> tuple[RevisionResult, ...]:
        """Return all revisions so far, oldest first."""
        return tuple(
            RevisionResult(
                revision=policy.revision,
                seconds=(policy.created_at - self._started_at).total_seconds(),
                reason=policy.reason,
                samples=disagreement(self._database, self._cohort, revision=policy.revision).samples,
            )
            for policy in policy_history(self._database, self._cohort)
        )

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

    def wait_for_audits(self, count: int, *, after: int, limit_s: float) -> None:
        """Wait for `count` audited samples with ids above `after`. Raises QuickstartError as `wait`."""

        def enough() -> bool:
            return disagreement(self._database, self._cohort, after=after).samples >= count

        self.wait(f"{count} audited samples", enough, limit_s=limit_s)

    def phase(
        self, name: str, *, revision: int, only: bool = False, after: int, until: int | None = None
    ) -> PhaseResult:
        """Return the disagreement and the exit mix of the audits in the span (after, until].

        `revision` is the newest one of these audits; with `only`, those of other revisions are left out.
        """
        chosen = revision if only else None
        return PhaseResult(
            name=name,
            revision=revision,
            disagreement=disagreement(self._database, self._cohort, revision=chosen, after=after, until=until),
            mix=audited_exit_mix(self._database, self._cohort, revision=chosen, after=after, until=until),
        )

    def _record_point(self) -> None:
        newest = self.watermark()
        after = max(0, newest - _RECENT)
        recent = disagreement(self._database, self._cohort, after=after, until=newest)
        mix = audited_exit_mix(self._database, self._cohort, after=after, until=newest)
        revisions = [device.revision or 0 for device in devices(self._database, fleet=self._cohort.fleet)]
        if recent.observed is None or mix.rates is None or not revisions:
            return
        point = TimelinePoint(
            seconds=self.seconds,
            agreement=1 - recent.observed,
            rates=mix.rates,
            revision=min(revisions),
            reported=exit_mix(self._database, self._cohort).samples,
            audited=newest,
        )
        self.timeline.append(point)
        self._on_point(point)
