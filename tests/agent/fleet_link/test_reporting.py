"""What the device reports, and in which order."""

import threading
from pathlib import Path
from typing import Any

import pytest

from edgeexit.agent.counters import Counters
from edgeexit.agent.fleet_link.reporting import Reporter
from edgeexit.agent.policy.check import Recipient
from edgeexit.wire import Audit, Report
from tests.agent.outboxes import open_outbox, read_reports


def test_of_two_reports_at_once_the_newer_one_has_the_newer_counters(
    tmp_path: Path, recipient: Recipient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command for a report arrives while the link collects: the calibrator keeps the report of the highest number."""
    outbox, counters, unused = open_outbox(tmp_path), Counters(recipient.exits), Any
    reporter: Any = Reporter(
        recipient,
        counters=counters,
        policies=unused,  # type: ignore[arg-type]
        outbox=outbox,
        identity=unused,  # type: ignore[arg-type]
        freshness=unused,  # type: ignore[arg-type]
        problems=list,
        audit_fraction=0.01,
        started=0.0,
    )
    add, others = outbox.add, list[threading.Thread]()

    def add_late(message: Report | Audit) -> None:
        if not others:
            counters.record_failure(0)
            others.append(threading.Thread(target=reporter.add_reports, kwargs={"skipped": 0}))
            others[0].start()
            others[0].join(timeout=0.3)
        add(message)

    monkeypatch.setattr(outbox, "add", add_late)
    counters.record_failure(0)
    reporter.add_reports(skipped=0)
    others[0].join()
    assert [report.failed for report in read_reports(outbox)] == [2]
