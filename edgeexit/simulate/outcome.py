"""The result of a simulation, as the command prints it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from edgeexit.simulate.comparison import Difference, DifferenceKind, FleetTotals
from edgeexit.simulate.fleet_load import FleetLoad

_MAX_NAMED: Final = 5
"""Differences of one group that are named."""


class DifferenceGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Differences of one kind in the same part of the database."""

    kind: DifferenceKind
    what: str
    count: int
    first: tuple[Difference, ...]


class DatabaseBalance(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of what was sent with what the database holds."""

    differences: int
    lost: int
    double: int
    wrong: int
    groups: tuple[DifferenceGroup, ...]
    drops: Mapping[str, int]
    """Cause -> messages of the fleet that the calibrator did not store since the begin of the run."""


class SimulationOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent and what was answered."""

    devices: int
    connections: int
    seconds: float
    """Length of the load, without connecting and settling."""
    reports: int
    audits: int
    audited_samples: int
    states: int
    copies: int
    """Messages that were sent again."""
    acknowledged_reports: int
    acknowledged_audits: int
    superseded_reports: int
    """Reports that agents deleted, because a newer one of the series was acknowledged."""
    unanswered: int
    """Messages that were not answered at the end."""
    unanswered_by_broker: int
    """Those of them that the broker answered with an error."""
    refused: Mapping[str, int]
    """Reason of a final refusal -> messages."""
    refused_for_now: Mapping[str, int]
    """Reason of a refusal that is not final -> messages."""
    reports_per_s: float | None
    """Acknowledged reports per second, from the first to the last acknowledgement of the load."""
    warm_up_s: float
    """Time from the last connection until the calibrator had answered a first report of each connection."""
    ack_p50_s: float | None
    ack_p99_s: float | None
    """Percentiles of the time from sending to acknowledgement."""
    reconnects: int
    cpu_s: float
    """CPU time of the simulation during the load."""
    events: Mapping[str, int]
    """What happened to the devices -> how often."""
    malicious: Mapping[str, int]
    """Kind -> messages of malicious devices; they are in no other number and not compared."""
    malicious_acknowledged: int
    malicious_refused: int
    revisions: Mapping[int, int]
    """Revision of the active policy at the end -> devices."""
    database: DatabaseBalance | None = None

    @property
    def is_exact(self) -> bool:
        """True if the database holds exactly what was acknowledged, or was not compared.

        False if nothing was acknowledged, because then an empty database has no difference.
        """
        if self.database is None:
            return True
        return not self.database.differences and bool(self.acknowledged_reports or self.acknowledged_audits)


def outcome_of(load: FleetLoad) -> SimulationOutcome:
    """Return the result of a run, without a comparison."""
    ledger = load.ledger
    span_s = ledger.last_ack - ledger.first_ack
    revisions: dict[int, int] = {}
    for member in load.members:
        if member.has_state:
            revisions[member.agent.revision] = revisions.get(member.agent.revision, 0) + 1
    return SimulationOutcome(
        devices=load.options.devices,
        connections=load.connections,
        seconds=round(load.ended - load.began, 3),
        reports=ledger.reports,
        audits=ledger.audits,
        audited_samples=ledger.audited_samples,
        states=ledger.states,
        copies=ledger.copies,
        acknowledged_reports=ledger.acked_reports,
        acknowledged_audits=ledger.acked_audits,
        superseded_reports=ledger.superseded,
        unanswered=ledger.waiting,
        unanswered_by_broker=sum(message.rejected_by_broker for message in ledger.unanswered),
        refused=dict(ledger.refused),
        refused_for_now=dict(ledger.held),
        reports_per_s=round((ledger.acked_reports - ledger.acked_before) / span_s, 1) if span_s > 0 else None,
        warm_up_s=round(load.warm_up_s, 3),
        ack_p50_s=ledger.delays.percentile(50),
        ack_p99_s=ledger.delays.percentile(99),
        reconnects=load.reconnects,
        cpu_s=round(load.cpu_s, 3),
        events=dict(load.director.counts),
        malicious=dict(load.hostile.sent),
        malicious_acknowledged=load.hostile.acknowledged,
        malicious_refused=load.hostile.refused,
        revisions=dict(sorted(revisions.items())),
    )


def balance_of(differences: Iterable[Difference], before: FleetTotals, after: FleetTotals) -> DatabaseBalance:
    """Return the summary of a comparison."""
    counts: Counter[tuple[DifferenceKind, str]] = Counter()
    first: dict[tuple[DifferenceKind, str], list[Difference]] = {}
    kinds: Counter[DifferenceKind] = Counter()
    for one in differences:
        group = one.kind, one.what
        kinds[one.kind] += 1
        counts[group] += 1
        if counts[group] <= _MAX_NAMED:
            first.setdefault(group, []).append(one)
    drops = _drops(after)
    for cause, count in _drops(before).items():
        drops[cause] = drops.get(cause, 0) - count
    return DatabaseBalance(
        differences=kinds.total(),
        lost=kinds["lost"],
        double=kinds["double"],
        wrong=kinds["wrong"],
        groups=tuple(
            DifferenceGroup(kind=group[0], what=group[1], count=count, first=tuple(first[group]))
            for group, count in counts.items()
        ),
        drops={cause: count for cause, count in drops.items() if count},
    )


def _drops(totals: FleetTotals) -> dict[str, int]:
    drops = dict(totals.drops)
    for device in totals.devices.values():
        for cause, count in device.drops.items():
            drops[cause] = drops.get(cause, 0) + count
    return drops
