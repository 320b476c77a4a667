"""Steps 5 and 6 of the quickstart: a fleet at work, a stream that changes under it, and the recalibration."""

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
from edgeexit.quickstart.build import DELTA, RISK, say
from edgeexit.quickstart.digits import Part, worsen
from edgeexit.quickstart.fleet import COHORT, DEVICES, FLEET, Fleet
from edgeexit.quickstart.watch import DrillPhase, DrillWatcher, Moment

_RATE_HZ = 60.0
_AUDIT_FRACTION = 0.3
_CHECK_INTERVAL_S = 1.0
_NOISE, _CONTRAST = 0.2, 0.8
_NOISY_COPIES = 4
_AUDITS_BEFORE, _AUDITS_AFTER = 200, 300
_WAIT_S = 90.0
_STATUS_S = 3.0


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """What the audits showed."""

    before: DrillPhase
    drifted: DrillPhase
    after: DrillPhase
    moments: tuple[Moment, ...]
    drift_s: float
    """When the stream changed, in seconds since the watch began."""
    update_s: float
    """When every device ran the new policy."""
    device_ms: float | None
    """Mean latency of all answers on the devices, from the histograms of their reports."""


def run_drill(console: Console, fleet: Fleet, bundle: Bundle, part: Part, *, seed: int) -> Drill:
    """Start the fleet on `part`, worsen it, and watch until the new policy has shown what it does.

    The fleet is left running. Raises QuickstartError when something does not happen in time.
    """
    stream = fleet.folder / "stream.npz"
    save_arrays(stream, as_arrays(part))
    _start(console, fleet, bundle, stream)
    cohort = CohortAddress(FLEET, bundle.digest, COHORT)
    with DrillWatcher(fleet, cohort, on_moment=_now_and_then(_STATUS_S, _status_line(console))) as watcher:
        watcher.wait("both agents on revision 1", lambda: watcher.devices_on(1) == len(DEVICES), limit_s=_WAIT_S)
        since = watcher.watermark()
        watcher.wait_for_audits(_AUDITS_BEFORE, after=since, revision=1, limit_s=_WAIT_S)
        changed = watcher.watermark()
        print_table(
            "Devices, as the calibrator knows them",
            ("device", "state", "policy", "revision"),
            watcher.device_rows(),
            to=console,
        )

        say(
            console,
            6,
            "Drift and update",
            "The stream changes: less contrast, more noise. Early exits stay sure and are wrong more often, so the "
            "certificate no longer holds. The calibrator sees it from the audits alone, without labels; it refits on "
            "the new audits, certifies, signs and publishes. The agents verify, store and apply.",
        )
        drift_s = watcher.seconds
        save_arrays(stream, as_arrays(_worsened(part, seed)))
        watcher.wait("a new revision", lambda: watcher.newest_revision() > 1, limit_s=_WAIT_S)
        console.print(f"  {watcher.seconds - drift_s:.0f} s after the change the calibrator has signed revision 2")
        watcher.wait("both agents on revision 2", lambda: watcher.devices_on(2) == len(DEVICES), limit_s=_WAIT_S)
        update_s, updated = watcher.seconds, watcher.watermark()
        watcher.wait_for_audits(_AUDITS_AFTER, after=updated, revision=2, limit_s=_WAIT_S)
        return Drill(
            before=watcher.phase("before", revision=1, after=since, until=changed),
            drifted=watcher.phase("drifted", revision=1, after=changed, until=updated),
            after=watcher.phase("updated", revision=2, after=updated),
            moments=tuple(watcher.moments),
            drift_s=drift_s,
            update_s=update_s,
            device_ms=watcher.device_ms(),
        )


def as_arrays(part: Part) -> dict[str, npt.NDArray[np.generic]]:
    """Return images and labels as the arrays of a data file."""
    return {"image": part.images, LABELS: part.labels}


def _start(console: Console, fleet: Fleet, bundle: Bundle, stream: Path) -> None:
    say(
        console,
        5,
        "Start a fleet",
        f"A broker (MQTT 3.1.1 on port {fleet.ports.mqtt3}, MQTT 5 on {fleet.ports.mqtt5}), a calibrator on SQLite, "
        f"and {len(DEVICES)} agents, each a process of its own. An agent answers {_RATE_HZ:g} samples a second "
        f"and audits {_AUDIT_FRACTION:.0%} of them: it runs them to full depth after the answer.",
    )
    fleet.start_broker()
    database = open_database(str(fleet.database))
    register(database, bundle, fleet=FLEET, cohort=COHORT, risk=RISK, delta=DELTA, who="quickstart")
    database.close()
    fleet.start_calibrator(check_interval_s=_CHECK_INTERVAL_S)
    fleet.start_agents(bundle.path, stream, rate=_RATE_HZ, audit_fraction=_AUDIT_FRACTION)


def _status_line(console: Console) -> Callable[[Moment], None]:
    def show(moment: Moment) -> None:
        console.print(
            f"  {moment.seconds:3.0f} s  {moment.reported:6,} samples reported, {moment.audited:5,} audited; "
            f"agreement of the last 100 {moment.agreement:.0%}; revision {moment.revision}"
        )

    return show


def _now_and_then(seconds: float, show: Callable[[Moment], None]) -> Callable[[Moment], None]:
    """Return `show`, called for one moment in so many seconds."""
    last = -seconds

    def shown(moment: Moment) -> None:
        nonlocal last
        if moment.seconds - last >= seconds:
            last = moment.seconds
            show(moment)

    return shown


def _worsened(part: Part, seed: int) -> Part:
    copies = [worsen(part, noise=_NOISE, contrast=_CONTRAST, seed=seed + copy) for copy in range(_NOISY_COPIES)]
    return Part(np.concatenate([copy.images for copy in copies]), np.concatenate([copy.labels for copy in copies]))
