"""Watch the story in the calibrator's database: wait for what has to happen, and keep what was seen."""

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
"""Audited samples behind a point of the timeline."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A point of the timeline."""

    seconds: float
    """Since the agents were started."""
    agreement: float
    """Of the last 100 audited samples with the final exit."""
    revision: int
    """The newest that every device runs."""
    reported: int
    """Samples in the devices' newest reports."""
    audited: int
    """Audited samples that have arrived."""


class DrillPhase(msgspec.Struct, frozen=True, kw_only=True):
    """A chapter of the story, as the audits show it."""

    name: str
    revision: int
    disagreement: Disagreement
    mix: ExitMix

    def mean_ms(self, cumulative_ms: tuple[float, ...]) -> float:
        """Return the mean cost of a sample: the measured stage costs, weighted by this phase's exit mix."""
        return sum(rate * cost for rate, cost in zip(self.mix.rates or (), cumulative_ms, strict=False))


class DrillWatcher:
    """Reads the database that the calibrator writes; a second reader disturbs nobody. A context manager."""

    def __init__(self, fleet: Fleet, cohort: CohortAddress, *, on_moment: Callable[[Moment], None]) -> None:
        self._fleet = fleet
        self._database = open_database(str(fleet.database))
        self._cohort = cohort
        self._on_moment = on_moment
        self._started = time.monotonic()
        self.moments: list[Moment] = []

    def __enter__(self) -> "DrillWatcher":
        """Begin to watch."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the database."""
        self._database.close()

    @property
    def seconds(self) -> float:
        """Since this watcher was made."""
        return time.monotonic() - self._started

    def watermark(self) -> int:
        """Return the newest audit: what comes later is after it."""
        return audit_watermark(self._database, self._cohort)

    def devices_on(self, revision: int) -> int:
        """Return how many devices run this revision or a later one."""
        return sum(
            bool(device.online) and (device.revision or 0) >= revision
            for device in devices(self._database, fleet=self._cohort.fleet)
        )

    def device_rows(self) -> list[tuple[str, str, str, str]]:
        """Return a row a device: its name, whether it is online, its policy's kind and revision."""
        return [
            (device.device, "online" if device.online else "offline", device.policy or "-", str(device.revision))
            for device in devices(self._database, fleet=self._cohort.fleet)
        ]

    def device_ms(self) -> float | None:
        """Return the mean latency of all answers so far, as the devices report it."""
        return exit_mix(self._database, self._cohort).mean_latency_ms

    def newest_revision(self) -> int:
        """Return the cohort's newest revision."""
        return policy_history(self._database, self._cohort)[-1].revision

    def wait(self, what: str, reached: Callable[[], bool], *, limit_s: float) -> None:
        """Wait until `reached`, keeping the timeline. Raises QuickstartError when it takes longer than `limit_s`."""
        for _ in ticks(limit_s):
            self._fleet.check()
            self._keep_moment()
            if reached():
                return
        raise QuickstartError(f"{what} did not happen within {limit_s:g} s; see the logs in {self._fleet.folder}/logs")

    def wait_for_audits(self, count: int, *, after: int, revision: int, limit_s: float) -> None:
        """Wait for `count` audited samples of a revision."""

        def enough() -> bool:
            found = disagreement(self._database, self._cohort, revision=revision, after=after)
            return found.samples >= count

        self.wait(f"{count} audited samples", enough, limit_s=limit_s)

    def phase(self, name: str, *, revision: int, after: int, until: int | None = None) -> DrillPhase:
        """Return what audits in the span (after, until] say of a revision."""
        return DrillPhase(
            name=name,
            revision=revision,
            disagreement=disagreement(self._database, self._cohort, revision=revision, after=after, until=until),
            mix=audited_exit_mix(self._database, self._cohort, revision=revision, after=after, until=until),
        )

    def _keep_moment(self) -> None:
        newest = self.watermark()
        recent = disagreement(self._database, self._cohort, after=max(0, newest - _RECENT))
        running = [device.revision or 0 for device in devices(self._database, fleet=self._cohort.fleet)]
        if recent.observed is None or not running:
            return
        moment = Moment(
            seconds=self.seconds,
            agreement=1 - recent.observed,
            revision=min(running),
            reported=exit_mix(self._database, self._cohort).samples,
            audited=newest,
        )
        self.moments.append(moment)
        self._on_moment(moment)
