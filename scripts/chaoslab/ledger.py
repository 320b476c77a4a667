"""Writes down what each agent committed to its outbox, and compares it with the calibrator's database."""

import collections
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from edgeexit.policies.readout import readouts_to_bytes
from edgeexit.wire import Audit, Report
from scripts.chaoslab.stored import StoredDatabase, counts_digest, digest

_TAIL_BYTES = 32 * 1024


class Entry(msgspec.Struct, omit_defaults=True):
    """One line of a ledger; which fields are set depends on `kind`."""

    kind: str
    """ready, adding, added, arrived, handled, failed, tick or ended."""
    start: str = ""
    revision: int = 0
    samples: tuple[str, ...] = ()
    """Of an audit: a digest of the readouts of each sample. Inputs are random, so no two samples share a digest."""
    report: str = ""
    """Of a report: a digest of its counters."""
    inferences: int = 0
    waiting: int = 0
    """Messages that are not acknowledged."""
    seconds: float = 0.0
    """Of handled: how long it took."""
    text: str = ""


class LedgerFile:
    """Appends lines with one `write` each, so that `kill -9` loses none that was written. One file per start."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, entry: Entry) -> None:
        """Append a line."""
        os.write(self._file, msgspec.json.encode(entry) + b"\n")


def read_ledger(path: Path) -> Iterator[Entry]:
    """Yield the lines of a ledger; an incomplete last line is left out."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        yield msgspec.json.decode(line, type=Entry)


def read_tail(path: Path) -> list[Entry]:
    """Return the last lines of a ledger, at a cost that does not grow with its length."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0)
        file.seek(start)
        lines = file.read().split(b"\n")[1 if start else 0 : -1]
    return [msgspec.json.decode(line, type=Entry) for line in lines]


def message_entry(kind: str, start: str, message: Report | Audit) -> Entry:
    """Return the line for a message that is put into the outbox."""
    if isinstance(message, Audit):
        samples = tuple(digest(readouts_to_bytes(sample.readouts())) for sample in message.samples)
        return Entry(kind=kind, start=start, revision=message.revision, samples=samples)
    return Entry(kind=kind, start=start, revision=message.revision, report=counts_digest(message))


class Balance(msgspec.Struct):
    """The difference between what agents committed and what the calibrator stored."""

    samples: int = 0
    """Audited samples that agents committed."""
    reports: int = 0
    """(start, revision) pairs with a committed report."""
    lost_samples: int = 0
    double_samples: int = 0
    lost_reports: int = 0
    """(start, revision) pairs whose stored report is missing, or older than the last committed one."""
    wrong_reports: int = 0
    """Stored reports whose counters no agent has committed."""
    wrong_buckets: int = 0
    """Revisions of a device whose buckets of time do not add up to its newest counters."""

    @property
    def exact(self) -> bool:
        """True if nothing is lost, double or wrong."""
        wrong = self.double_samples + self.wrong_reports + self.wrong_buckets
        return not (self.missing or wrong)

    @property
    def missing(self) -> int:
        """Number of samples and reports that are not stored."""
        return self.lost_samples + self.lost_reports

    def __str__(self) -> str:
        return (
            f"{self.samples} samples and {self.reports} reports committed; lost {self.lost_samples} and "
            f"{self.lost_reports}, double or wrong {self.double_samples} and {self.wrong_reports}"
            + (f", buckets of {self.wrong_buckets} revisions wrong" if self.wrong_buckets else "")
        )


def compare(ledgers: Iterable[Path], database: StoredDatabase, *, device: str = "%") -> Balance:
    """Compare the ledgers of some devices with a calibrator's database.

    A message that was being committed when its agent was killed may be stored or not. `device` is an SQL pattern for
    the names of the devices.
    """
    committed: Counter[str] = Counter()
    possible: Counter[str] = Counter()
    reports: dict[tuple[str, int], list[str]] = collections.defaultdict(list)
    possible_reports: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
    for path in ledgers:
        adding: Entry | None = None
        for entry in read_ledger(path):
            if entry.kind == "adding":
                possible.update(entry.samples)
                if entry.report:
                    possible_reports[entry.start, entry.revision].add(entry.report)
                adding = entry
            elif entry.kind == "added" and adding is not None:
                committed.update(adding.samples)
                if adding.report:
                    reports[adding.start, adding.revision].append(adding.report)
    stored, stored_reports, wrong_buckets = database.messages(device)
    balance = Balance(samples=committed.total(), reports=len(reports), wrong_buckets=wrong_buckets)
    balance.lost_samples = (committed - stored).total()
    balance.double_samples = (stored - possible).total()
    for key, digests in reports.items():
        found = stored_reports.get(key)
        newer = possible_reports[key] - set(digests[:-1])
        balance.lost_reports += found is None or (found not in newer and found in digests)
    for key, found in stored_reports.items():
        balance.wrong_reports += found not in possible_reports.get(key, set())
    return balance
