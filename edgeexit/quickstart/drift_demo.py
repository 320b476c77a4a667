"""Steps 5 and 6 of the quickstart: run a fleet, let its input data drift, and follow its policy from then on."""

from collections.abc import Callable, Sequence

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
from edgeexit.quickstart.monitor import FleetMonitor, PhaseResult, RevisionResult, TimelinePoint, mean_cost
from edgeexit.quickstart.output import print_step

_RATE_HZ = 60.0
_AUDIT_FRACTION = 0.3
_CHECK_INTERVAL_S = 1.0
_NOISE, _CONTRAST = 0.2, 0.8
_NOISY_COPIES = 4
_AUDITS_BEFORE, _AUDITS_AFTER, _AUDITS_END = 200, 900, 200
_WAIT_S = 90.0
_STATUS_INTERVAL_S = 3.0


class DriftDemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements before the drift, after it, after the step back, and at the end."""

    before: PhaseResult
    drifted: PhaseResult
    """From the drift until every device ran the policy of the step back."""
    stepped_back: PhaseResult
    """Under that policy."""
    end: PhaseResult
    """The last audits, under the policy that every device ran before them, and any newer one."""
    revisions: tuple[RevisionResult, ...]
    timeline: tuple[TimelinePoint, ...]
    drift_s: float
    """When the data changed, in seconds since the start of the timeline."""
    mean_device_latency_ms: float | None
    """Mean latency of all inferences on the devices, from the histograms of their reports."""

    @property
    def phases(self) -> tuple[PhaseResult, ...]:
        """The four phases in order."""
        return self.before, self.drifted, self.stepped_back, self.end


def run_drift_demo(console: Console, fleet: Fleet, bundle: Bundle, part: Part, *, seed: int) -> DriftDemoResult:
    """Start a fleet whose input is `part`, degrade the input, wait for the step back and for the audits after it.

    The fleet is still running afterwards. Raises QuickstartError if a wait takes too long.
    """
    stream = fleet.folder / "stream.npz"
    save_arrays(stream, as_arrays(part))
    _start_cloud(console, fleet, bundle)
    cohort = CohortAddress(FLEET, bundle.digest, COHORT)
    show = _at_most_every(_STATUS_INTERVAL_S, _status_printer(console, bundle.costs().cumulative))
    with FleetMonitor(fleet, cohort, on_point=show) as monitor:
        # An audit that the calibrator misses is sent again later; it would arrive after the drift.
        monitor.wait("the calibrator to publish revision 1", monitor.is_published, limit_s=_WAIT_S)
        fleet.start_agents(bundle.path, stream, rate=_RATE_HZ, audit_fraction=_AUDIT_FRACTION)
        monitor.wait("both agents to run revision 1", lambda: monitor.devices_on(1) == len(DEVICES), limit_s=_WAIT_S)
        started = monitor.watermark()
        monitor.wait_for_audits(_AUDITS_BEFORE, after=started, limit_s=_WAIT_S)
        drifted, first = monitor.watermark(), monitor.newest_revision()
        print_table(
            "Devices in the calibrator's database",
            ("device", "state", "policy", "revision"),
            monitor.device_rows(),
            to=console,
        )

        print_step(
            console,
            6,
            "Drift and recalibration",
            "The input data changes: less contrast, more noise. Early exits stay confident but are wrong more often, "
            "so the certificate no longer holds. The calibrator detects this from the audits, without labels, and "
            "steps back at once: all samples take the final exit. Every further audit tests thresholds with early "
            "exits. As soon as they are certified, the calibrator puts them in force, bolder and bolder, and the cost "
            "falls again. It signs each policy and publishes it; the agents verify it, store it and apply it.",
        )
        drift_s = monitor.seconds
        save_arrays(stream, as_arrays(_degraded(part, seed)))
        monitor.wait("a step back", lambda: monitor.step_back_after(first) is not None, limit_s=_WAIT_S)
        back = monitor.step_back_after(first) or first
        console.print(
            f"  {monitor.seconds - drift_s:.0f} s after the change, the calibrator has stepped back: revision {back}"
        )
        in_force = "the newest revision to be in force on all devices"
        monitor.wait(in_force, monitor.newest_is_in_force, limit_s=_WAIT_S)
        settled = monitor.watermark()
        monitor.wait_for_audits(_AUDITS_AFTER, after=settled, limit_s=_WAIT_S)
        monitor.wait(in_force, monitor.newest_is_in_force, limit_s=_WAIT_S)
        late = monitor.watermark()
        monitor.wait_for_audits(_AUDITS_END, after=late, limit_s=_WAIT_S)
        last = max(one.revision for one in monitor.revisions() if one.samples)
        return DriftDemoResult(
            before=monitor.phase("before", revision=first, after=started, until=drifted),
            drifted=monitor.phase("after the change", revision=first, after=drifted, until=settled, only=True),
            stepped_back=monitor.phase("stepped back", revision=back, after=drifted, only=True),
            end=monitor.phase("at the end", revision=last, after=late),
            revisions=monitor.revisions(),
            timeline=tuple(monitor.timeline),
            drift_s=drift_s,
            mean_device_latency_ms=monitor.mean_device_latency_ms(),
        )


def as_arrays(part: Part) -> dict[str, npt.NDArray[np.generic]]:
    """Return images and labels as the arrays of a data set file."""
    return {"image": part.images, LABELS: part.labels}


def _start_cloud(console: Console, fleet: Fleet, bundle: Bundle) -> None:
    print_step(
        console,
        5,
        "Start a fleet",
        f"These start, each in its own process: a broker (MQTT 3.1.1 on port {fleet.ports.mqtt3}, MQTT 5 on port "
        f"{fleet.ports.mqtt5}), a calibrator with an SQLite database, and {len(DEVICES)} agents. Each agent processes "
        f"{_RATE_HZ:g} samples per second and audits {100 * _AUDIT_FRACTION:g} % of them: it runs them to full depth "
        "after it has returned the prediction. The lines below show the last 100 audited samples: their "
        "agreement with the final exit, and their mean cost as a part of the cost of full depth.",
    )
    fleet.start_broker()
    database = open_database(str(fleet.database))
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, user="quickstart")
    database.close()
    fleet.start_calibrator(check_interval_s=_CHECK_INTERVAL_S)


def _status_printer(console: Console, costs: Sequence[float]) -> Callable[[TimelinePoint], None]:
    def show(point: TimelinePoint) -> None:
        console.print(
            f"  {point.seconds:3.0f} s  {point.reported:6,} samples reported, {point.audited:5,} audited; "
            f"agreement {100 * point.agreement:3.0f} %, cost {100 * mean_cost(point.rates, costs) / costs[-1]:3.0f} %; "
            f"revision {point.revision}"
        )

    return show


def _at_most_every(interval_s: float, show: Callable[[TimelinePoint], None]) -> Callable[[TimelinePoint], None]:
    """Return a function that calls `show` for at most one point per interval, and for every new revision."""
    last, revision = -interval_s, 0

    def shown(point: TimelinePoint) -> None:
        nonlocal last, revision
        if point.seconds - last >= interval_s or point.revision != revision:
            last, revision = point.seconds, point.revision
            show(point)

    return shown


def _degraded(part: Part, seed: int) -> Part:
    copies = [degrade(part, noise=_NOISE, contrast=_CONTRAST, seed=seed + copy) for copy in range(_NOISY_COPIES)]
    return Part(np.concatenate([copy.images for copy in copies]), np.concatenate([copy.labels for copy in copies]))
