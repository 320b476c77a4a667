"""Outboxes for tests, and a stand-in for the calibrator that stores their messages as it does."""

from pathlib import Path

from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.agent.outbox.rows import OutboxEntry, OutboxKind
from edgeexit.wire import Ack, Audit, Report, decode
from edgeexit.wire.audit_parts import missing_parts

MAX_BYTES = 64 * 1024
KINDS: tuple[OutboxKind, ...] = ("report", "audit")


def open_outbox(folder: Path, *, max_bytes: int = MAX_BYTES) -> Outbox:
    return Outbox(folder, max_bytes=max_bytes)


def entries(outbox: Outbox, *kinds: OutboxKind) -> list[OutboxEntry]:
    """Return all unacknowledged messages, reports first."""
    found = [entry for kind in KINDS for entry in outbox.pending(kind, limit=100_000)]
    assert outbox.count == len(found), "the running count is correct"
    return [entry for entry in found if entry.kind in (kinds or KINDS)]


def read_reports(outbox: Outbox) -> list[Report]:
    return [decode(outbox.payload(entry.id) or b"", Report) for entry in entries(outbox, "report")]


def read_audits(outbox: Outbox) -> list[Audit]:
    return [decode(outbox.payload(entry.id) or b"", Audit) for entry in entries(outbox, "audit")]


def labels(*audits: Audit) -> list[int]:
    """Return the labels of the samples, which name them; see `make_audit`."""
    return [sample.label for audit in audits for sample in audit.samples if sample.label is not None]


def acknowledge(outbox: Outbox, *acknowledged: OutboxEntry) -> int:
    """Acknowledge messages as the calibrator does; return how many were deleted."""
    starts = {entry.start for entry in acknowledged}
    return sum(
        len(outbox.acknowledge(Ack(start=start, sequences=_numbers(start, acknowledged))).stored) for start in starts
    )


def _numbers(start: str, acknowledged: tuple[OutboxEntry, ...]) -> tuple[int, ...]:
    return tuple(entry.sequence for entry in acknowledged if entry.start == start)


class Calibrator:
    """Stores every audit once, as a whole or in parts, and the newest report of every (start, revision)."""

    def __init__(self) -> None:
        self.audits: dict[tuple[str, int], Audit] = {}
        self.reports: dict[tuple[str, int], Report] = {}
        self.duplicates = 0

    def take(self, outbox: Outbox, *, answer: bool = True) -> None:
        """Receive everything that the outbox holds, and acknowledge it."""
        for entry in entries(outbox):
            payload = outbox.payload(entry.id)
            assert payload is not None
            if entry.kind == "audit":
                audit = decode(payload, Audit)
                self.duplicates += (audit.start, audit.sequence) in self.audits
                stored = {sequence for start, sequence in self.audits if start == audit.start}
                self.audits.update(((one.start, one.sequence), one) for one in missing_parts(audit, stored))
            else:
                report = decode(payload, Report)
                known = self.reports.get((report.start, report.revision))
                if known is None or report.sequence > known.sequence:
                    self.reports[report.start, report.revision] = report
            if answer:
                acknowledge(outbox, entry)

    @property
    def labels(self) -> list[int]:
        """The labels of all stored samples."""
        return sorted(labels(*self.audits.values()))
