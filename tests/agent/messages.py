"""Messages for tests of the outbox and the link."""

from edgeexit.latency import BIN_COUNT
from edgeexit.wire import SCORE_BINS, Audit, AuditedSample, ExitCounters, Report


def make_report(revision: int = 0, reached: int = 1, *, uptime_s: float = 1, exits: int = 2) -> Report:
    counters = ExitCounters(reached=reached, exited=0, scores=(0,) * SCORE_BINS, latency=(0,) * BIN_COUNT)
    return Report(
        start="0" * 16,
        sequence=0,
        bundle="a" * 64,
        cohort="c",
        revision=revision,
        uptime_s=uptime_s,
        exits=(counters,) * exits,
    )


def make_audit(samples: int = 1, *, first: int = 0) -> Audit:
    """Return an audit whose samples have the labels `first`, `first + 1`, ..."""
    made = tuple(
        AuditedSample(exit=0, top1=(1, 2), p1=(0.5, 0.5), p2=(0.25, 0.25), entropy=(1.0, 1.0), label=first + place)
        for place in range(samples)
    )
    return Audit(start="0" * 16, sequence=0, bundle="a" * 64, cohort="c", revision=0, samples=made)
