"""Checks of reports, audits, acknowledgements and refusals."""

from collections import defaultdict
from collections.abc import Callable

from bench import Bench, FailedError, SkippedError, check
from calibrator import Seen

from edgeexit.wire import Ack, Audit, Report, down_topic, encode

_ATTEMPTS = 3
_GRACE_S = 0.5
"""Copies that were under way when the acknowledgement was sent arrive within this time."""


@check("delivery", "reports", "Reports are valid, of the start in the state, and their counts agree with each other.")
def _reports(bench: Bench) -> str:
    report = bench.next_report()
    if report.start != bench.calibrator.current().start:
        raise FailedError(f"the report has start {report.start}, the state {bench.calibrator.current().start}")
    for k, exit_ in enumerate(report.exits):
        below = sum(other.exited for other in report.exits[k:])
        if exit_.reached != below:
            raise FailedError(f"exit {k}: reached is {exit_.reached}, but {below} samples exited there or deeper")
        if sum(exit_.scores) != exit_.reached:
            raise FailedError(f"exit {k}: scores counts {sum(exit_.scores)} samples, reached {exit_.reached}")
        if sum(exit_.latency) != exit_.exited:
            raise FailedError(f"exit {k}: latency counts {sum(exit_.latency)} samples, exited {exit_.exited}")
    return f"{bench.exits} exits, {report.exits[0].reached} samples"


@check(
    "delivery",
    "cumulative",
    "Counts of one (start, revision) grow with the sequence, and a sequence names one message for ever.",
)
def _cumulative(bench: Bench) -> str:
    for _ in range(2):
        bench.next_report()
    contents = defaultdict(set)
    for seen in bench.calibrator.seen:
        if isinstance(seen.message, Report | Audit):
            contents[seen.message.start, seen.message.sequence].add((seen.kind, seen.payload))
    different = [name for name, found in contents.items() if len(found) > 1]
    if different:
        raise FailedError(f"two different messages have start {different[0][0]} and sequence {different[0][1]}")
    last: dict[tuple[str, int], Report] = {}
    for report in sorted(bench.calibrator.since(0, Report), key=lambda report: report.sequence):
        before = last.get((report.start, report.revision))
        for k, exit_ in enumerate(report.exits if before else ()):
            if exit_.exited < before.exits[k].exited:
                raise FailedError(f"exit {k}: exited fell from {before.exits[k].exited} to {exit_.exited}")
        last[report.start, report.revision] = report
    total = sum(report.exits[0].reached for report in last.values())
    if total == 0:
        raise FailedError("the client counted no sample: it must run inferences during the test")
    return f"{len(contents)} messages"


@check("delivery", "resend", "A message that is not acknowledged is sent again, with the same bytes of content.")
def _resend(bench: Bench) -> None:
    _expect_copy(bench, lambda _: None)


@check("delivery", "ack-of-another-start", "An acknowledgement for another start changes nothing.")
def _ack_of_another_start(bench: Bench) -> None:
    def ack_another_start(report: Report) -> None:
        other = Ack(start=f"{int(report.start, 16) ^ 1:016x}", sequences=(report.sequence,))
        bench.calibrator.publish(down_topic(bench.calibrator.address, "ack"), encode(other))

    _expect_copy(bench, ack_another_start)


def _expect_copy(bench: Bench, answer: Callable[[Report], None]) -> None:
    """Answer a new report; a copy of it must follow, unless a newer report replaces it before it is due."""
    try:
        for _ in range(_ATTEMPTS):
            # After a silence, a client may wait longer with each copy until something is acknowledged.
            bench.calibrator.acknowledging = True
            bench.next_report()
            bench.calibrator.acknowledging = False
            report = bench.next_report()
            answer(report)
            bench.calibrator.wait(lambda: None, bench.resend_s / 2)  # the answer arrives
            index = len(bench.calibrator.seen)
            patience_s = 3 + 1.5 * max(bench.resend_s, bench.report_interval_s)
            copies = bench.calibrator.wait(
                lambda report=report, index=index: bench.copies(report.start, report.sequence, index), patience_s
            )
            if copies:
                return
    finally:
        bench.calibrator.acknowledging = True
    raise FailedError(f"no copy of {_ATTEMPTS} unacknowledged reports arrived")


@check(
    "delivery",
    "ack",
    "After an acknowledgement, also one with an unknown field, the client never sends the message again.",
)
def _ack(bench: Bench) -> None:
    bench.calibrator.acknowledging = False
    try:
        report = bench.next_report()
        payload = b'{"start":"%s","added_later":{"a":[1]},"sequences":[%d]}' % (report.start.encode(), report.sequence)
        bench.calibrator.publish(down_topic(bench.calibrator.address, "ack"), payload)
        _expect_no_copy(bench, report)
    finally:
        bench.calibrator.acknowledging = True
    late = [seen for seen in bench.calibrator.seen if _is_late(bench, seen)]
    if late:
        raise FailedError(f"{late[0].kind} {late[0].message.sequence} was sent again after its acknowledgement")


@check("delivery", "refusal", "A final refusal ends a message, and the client counts it in `losses.refused`.")
def _refusal(bench: Bench) -> None:
    calibrator = bench.calibrator
    calibrator.acknowledging = False
    try:
        report = bench.next_report()
        calibrator.refuse(report, "conformance: refused for ever", final=True)
        _expect_no_copy(bench, report)
    finally:
        calibrator.acknowledging = True
    before = report.losses.refused

    def counted() -> bool:
        return any(r.losses.refused > before for r in calibrator.since(0, Report) if r.sequence > report.sequence)

    bench.wait(counted, f"a report with losses.refused above {before}")


@check(
    "delivery",
    "refusal-not-final",
    "After a refusal that is not final, the client waits for long, and does not count the message as lost.",
)
def _refusal_not_final(bench: Bench) -> None:
    calibrator = bench.calibrator
    calibrator.acknowledging = False
    try:
        report = bench.next_report()
        calibrator.refuse(report, "conformance: not enrolled yet", final=False)
        _expect_no_copy(bench, report)
    finally:
        calibrator.acknowledging = True
    newer = bench.next_report()
    if newer.losses.refused > report.losses.refused:
        raise FailedError("the message was counted in losses.refused, as if the refusal were final")


def _is_late(bench: Bench, seen: Seen) -> bool:
    """Return True if a copy of a message arrived long after its acknowledgement."""
    if not isinstance(seen.message, Report | Audit):
        return False
    acked = bench.calibrator.acked.get((seen.message.start, seen.message.sequence))
    return acked is not None and seen.at > acked + _GRACE_S + bench.resend_s


def _expect_no_copy(bench: Bench, report: Report) -> None:
    calibrator = bench.calibrator
    calibrator.wait(lambda: None, _GRACE_S + bench.resend_s)  # copies that are under way
    index = len(calibrator.seen)
    bench.pause()
    if bench.copies(report.start, report.sequence, index):
        raise FailedError(f"report {report.sequence} was sent again")


@check(
    "delivery",
    "audits",
    "Every audit is signed with the key in the state, and has as many exits as the reports.",
    core=False,
)
def _audits(bench: Bench) -> str:
    found = bench.calibrator.wait(
        lambda: [seen for seen in bench.calibrator.seen if seen.kind == "audit"], bench.patience_s
    )
    if not found:
        raise SkippedError("the client sent no audit")
    key = bench.calibrator.current().key
    for seen in found:
        if seen.message is None:
            raise FailedError(f"an audit is invalid: {seen.error}")
        if seen.key != key:
            raise FailedError(f"an audit is signed by key {seen.key}, the state names {key}")
        if any(len(sample.top1) != bench.exits for sample in seen.message.samples):
            raise FailedError(f"a sample of an audit has not {bench.exits} exits, as reports have")
    return f"{len(found)} audits"
