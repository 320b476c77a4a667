"""Steps 5 and 6 of the quickstart: run a fleet, let its input data drift, and wait for the updated policy."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from edgeexit_calibration import CohortAddress, open_database, register
from rich.console import Console

from edgeexit.bundle import Bundle
from edgeexit.console import print_table
from edgeexit.datasets import LABELS
from edgeexit.npz import save_arrays
from edgeexit.quickstart.build import DELTA, RISK
from edgeexit.quickstart.digits import Part, degrade
from edgeexit.quickstart.fleet import COHORT, DEVICES, FLEET, Fleet
from edgeexit.quickstart.monitor import FleetMonitor, PhaseResult, TimelinePoint
from edgeexit.quickstart.output import print_step

_RATE_HZ = 60.0
_AUDIT_FRACTION = 0.3
_CHECK_INTERVAL_S = 1.0
_NOISE, _CONTRAST = 0.2, 0.8
_NOISY_COPIES = 4
_AUDITS_BEFORE, _AUDITS_AFTER = 200, 300
_WAIT_S = 90.0
_STATUS_INTERVAL_S = 3.0


class DriftDemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements before the drift, after the drift, and after the update."""

    before: PhaseResult
    drifted: PhaseResult
    updated: PhaseResult
    timeline: tuple[TimelinePoint, ...]
    drift_s: float
    """When the data changed, in seconds since the start of the timeline."""
    update_s: float
    """When every device ran the new policy, in seconds since the start of the timeline."""
    mean_device_latency_ms: float | None
    """Mean latency of all inferences on the devices, from the histograms of their reports."""

    @property
    def phases(self) -> tuple[PhaseResult, ...]:
        """The three phases in order."""
        return self.before, self.drifted, self.updated


def run_drift_demo(console: Console, fleet: Fleet, bundle: Bundle, part: Part, *, seed: int) -> DriftDemoResult:
    """Start a fleet whose input is `part`, degrade the input, and wait for enough audits of the updated policy.

    The fleet is still running afterwards. Raises QuickstartError if a wait takes too long.
    """
    stream = fleet.folder / "stream.npz"
    save_arrays(stream, as_arrays(part))
    _start(console, fleet, bundle, stream)
    cohort = CohortAddress(FLEET, bundle.digest, COHORT)
    with FleetMonitor(fleet, cohort, on_point=_at_most_every(_STATUS_INTERVAL_S, _status_printer(console))) as monitor:
        monitor.wait("both agents to run revision 1", lambda: monitor.devices_on(1) == len(DEVICES), limit_s=_WAIT_S)
        started = monitor.watermark()
        monitor.wait_for_audits(_AUDITS_BEFORE, after=started, revision=1, limit_s=_WAIT_S)
        drifted = monitor.watermark()
        print_table(
            "Devices in the calibrator's database",
            ("device", "state", "policy", "revision"),
            monitor.device_rows(),
            to=console,
        )

        print_step(
            console,
            6,
            "Drift and update",
            "The input data changes: less contrast, more noise. Early exits stay confident but are wrong more often, "
            "so the certificate no longer holds. The calibrator detects this from the audits, without labels. It "
            "refits the policy on the new audits, certifies it, signs it and publishes it. The agents verify it, "
            "store it and apply it. With the new policy, more samples continue to deeper exits, so the latency rises.",
        )
        drift_s = monitor.seconds
        save_arrays(stream, as_arrays(_degraded(part, seed)))
        monitor.wait("a new revision", lambda: monitor.newest_revision() > 1, limit_s=_WAIT_S)
        console.print(
            f"  {monitor.seconds - drift_s:.0f} s after the change, the calibrator has a new policy, revision 2"
        )
        monitor.wait("both agents to run revision 2", lambda: monitor.devices_on(2) == len(DEVICES), limit_s=_WAIT_S)
        update_s, updated = monitor.seconds, monitor.watermark()
        monitor.wait_for_audits(_AUDITS_AFTER, after=updated, revision=2, limit_s=_WAIT_S)
        return DriftDemoResult(
            before=monitor.phase("before", revision=1, after=started, until=drifted),
            drifted=monitor.phase("drifted", revision=1, after=drifted, until=updated),
            updated=monitor.phase("updated", revision=2, after=updated),
            timeline=tuple(monitor.timeline),
            drift_s=drift_s,
            update_s=update_s,
            mean_device_latency_ms=monitor.mean_device_latency_ms(),
        )


def as_arrays(part: Part) -> dict[str, npt.NDArray[np.generic]]:
    """Return images and labels as the arrays of a data set file."""
    return {"image": part.images, LABELS: part.labels}


def _start(console: Console, fleet: Fleet, bundle: Bundle, stream: Path) -> None:
    print_step(
        console,
        5,
        "Start a fleet",
        f"These start, each in its own process: a broker (MQTT 3.1.1 on port {fleet.ports.mqtt3}, MQTT 5 on port "
        f"{fleet.ports.mqtt5}), a calibrator with an SQLite database, and {len(DEVICES)} agents. Each agent processes "
        f"{_RATE_HZ:g} samples per second and audits {100 * _AUDIT_FRACTION:g} % of them: it runs them to full depth "
        "after it has returned the prediction. The lines below show the agreement of the last 100 audited samples.",
    )
    fleet.start_broker()
    database = open_database(str(fleet.database))
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="quickstart")
    database.close()
    fleet.start_calibrator(check_interval_s=_CHECK_INTERVAL_S)
    fleet.start_agents(bundle.path, stream, rate=_RATE_HZ, audit_fraction=_AUDIT_FRACTION)


def _status_printer(console: Console) -> Callable[[TimelinePoint], None]:
    def show(point: TimelinePoint) -> None:
        console.print(
            f"  {point.seconds:3.0f} s  {point.reported:6,} samples reported, {point.audited:5,} audited; "
            f"agreement {100 * point.agreement:3.0f} %; revision {point.revision}"
        )

    return show


def _at_most_every(interval_s: float, show: Callable[[TimelinePoint], None]) -> Callable[[TimelinePoint], None]:
    """Return a function that calls `show` for at most one point per interval."""
    last = -interval_s

    def shown(point: TimelinePoint) -> None:
        nonlocal last
        if point.seconds - last >= interval_s:
            last = point.seconds
            show(point)

    return shown


def _degraded(part: Part, seed: int) -> Part:
    copies = [degrade(part, noise=_NOISE, contrast=_CONTRAST, seed=seed + copy) for copy in range(_NOISY_COPIES)]
    return Part(np.concatenate([copy.images for copy in copies]), np.concatenate([copy.labels for copy in copies]))
