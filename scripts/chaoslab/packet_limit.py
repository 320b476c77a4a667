"""A broker that accepts packets of at most 6,000 bytes."""

from edgeexit.wire import State
from scripts.chaoslab.brokers import has_mosquitto
from scripts.chaoslab.lab import Check, Lab, running
from scripts.chaoslab.waiting import GENEROUS_S, pause, wait_until
from tests.bundles import make_bundle

_LIMIT = 6000
_MANY_EXITS = 48
"""A report of a bundle with so many exits is larger than the limit."""


def small_packets(lab: Lab) -> list[Check]:
    """Send audits of about 33 KB, and reports that do not fit, to such a broker."""
    promise = f"max_packet_size {_LIMIT}"
    if not has_mosquitto():
        return [Check(situation=lab.name, promise=promise, counted="mosquitto is not installed", kept=None)]
    broker = lab.broker("mosquitto", max_packet_size=_LIMIT)
    database = lab.calibrator(broker.url).database
    watcher = lab.watcher(broker.port)
    bundle = make_bundle(lab.folder / "many-exits", exits=_MANY_EXITS)
    options = {"report_interval_s": 2.0, "audit_fraction": 1.0, "rate": 150.0}
    small = lab.device("small", broker.url, **options)
    large = lab.device("large", broker.url, bundle=bundle, **options)
    for device in (small, large):
        device.start()
    list(running([small, large]))
    pause(30 if lab.long else 4)
    wait_until(lambda: _names_size(watcher.state("large")), GENEROUS_S)
    lab.drain([small, large])
    fits = lab.balance([small], database, device="small")
    rest = lab.balance([large], database, device="large", reports=False)
    wait_until(lambda: _names_size(watcher.state("large")), GENEROUS_S)  # the state at the end may arrive last
    state = watcher.state("large")
    problems = () if state is None else state.problems
    return [
        Check(
            situation=lab.name,
            promise=f"{promise}: audits of 33 KB are divided and arrive",
            counted=str(fits),
            kept=fits.exact and fits.samples > 0,
        ),
        Check(
            situation=lab.name,
            promise=f"{promise}: reports that never fit are given up and reported, and everything else arrives",
            counted=f"{rest}; problems {problems}",
            kept=not rest.lost_samples and not rest.double_samples and rest.samples > 0 and _names_size(state),
        ),
    ]


def _names_size(state: State | None) -> bool:
    """Return True if a state reports a message that is too large."""
    return state is not None and any("bytes" in problem for problem in state.problems)
