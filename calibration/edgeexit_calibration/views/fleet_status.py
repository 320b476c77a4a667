"""Everything that `edgeexit calibrator status` shows, in a number of queries that does not grow with the devices."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from edgeexit_calibration.store.database import Database
from edgeexit_calibration.store.size_limit import SizeReport, size_report
from edgeexit_calibration.store.troubles import SHOWN_FOR
from edgeexit_calibration.views.attention import KINDS, Attention, drops_attention
from edgeexit_calibration.views.cohort_metrics import cohort_metrics
from edgeexit_calibration.views.cohort_views import CohortView, cohort_views
from edgeexit_calibration.views.device_attention import device_attention
from edgeexit_calibration.views.device_counts import DeviceCount, count_devices
from edgeexit_calibration.views.device_views import FleetView, fleet_drops
from edgeexit_calibration.views.field_costs import CohortCosts
from edgeexit_calibration.views.metrics import Accuracy, Disagreement, ExitMix
from edgeexit_calibration.views.names import check_fleet, fleet_names
from edgeexit_calibration.views.processes import FleetProcesses, fleet_processes, process_attention

COHORTS_SHOWN: Final = 10
PER_KIND: Final = 3
_ENOUGH_SAMPLES: Final = 100
"""Samples under the current revision whose mean cost is compared with the budget."""


class FleetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet in one line."""

    fleet: str
    devices: int
    online: int
    up_to_date: int
    """Number of devices that run the current revision of a registered cohort."""
    cohorts: int
    processes: FleetProcesses
    drops: FleetView | None
    """Messages that were not stored and came from no known device; null: none."""


class CohortStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort and the metrics of its current revision; of all revisions if it is not registered."""

    cohort: CohortView
    disagreement: Disagreement
    accuracy: Accuracy
    exit_mix: ExitMix
    exit_rates: tuple[float, ...] | None
    mean_cost_ms: float | None
    """Mean cost of a sample: that of each exit, in the exit mix; null without samples, and if costs are not in ms."""

    @property
    def is_over_budget(self) -> bool:
        """Whether the mean cost exceeds the budget, for as many samples as tell."""
        cost, budget = self.mean_cost_ms, self.cohort.budget_ms
        enough = self.exit_mix.samples >= _ENOUGH_SAMPLES
        return enough and cost is not None and budget is not None and cost > budget


class CalibratorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The fleets of a database, their cohorts, and what needs attention."""

    time: datetime
    attention: tuple[Attention, ...]
    """The first few of each kind, the most urgent kind first."""
    attention_counts: dict[str, int]
    """Kind -> number of things that need attention."""
    fleets: tuple[FleetSummary, ...]
    cohorts: tuple[CohortStatus, ...]
    """Registered ones first, then those with the most devices."""
    cohorts_total: int
    """Number of cohorts, also of those that are left out."""


def status(
    database: Database,
    *,
    now: datetime,
    fleet: str | None = None,
    per_kind: int = PER_KIND,
    max_cohorts: int = COHORTS_SHOWN,
) -> CalibratorStatus:
    """Return the status of a fleet (None: of all fleets) at the time `now`.

    Raises NameLookupError for an unknown fleet, and DatabaseError.
    """
    with database.reading() as session:
        if fleet is not None:
            check_fleet(session, fleet)
        fleets = fleet_names(session) if fleet is None else [fleet]
        counts = count_devices(session, fleets)
        views = cohort_views(session, fleets, counts)
        processes = fleet_processes(session, fleets)
        drops = {view.fleet: view for view in fleet_drops(session, fleet)}
        shown = sorted(views, key=lambda key: (views[key].revision is None, -views[key].devices, key))[:max_cohorts]
        summaries = tuple(
            _summary(fleet, counts, list(views.values()), processes[fleet], drops.get(fleet)) for fleet in fleets
        )
        measured = {*shown, *(key for key, view in views.items() if view.budget_ms is not None)}
        statuses = _cohort_statuses(session, {key: view for key, view in views.items() if key in measured})
        over_budget = [_over_budget(one) for one in statuses.values() if one.is_over_budget]
        attention, numbers = _attention(
            session, summaries, list(views.values()), over_budget, now=now, per_kind=per_kind
        )
        return CalibratorStatus(
            time=now,
            attention=attention,
            attention_counts=numbers,
            fleets=summaries,
            cohorts=tuple(statuses[key] for key in shown),
            cohorts_total=len(views),
        )


def _summary(
    fleet: str,
    counts: Sequence[DeviceCount],
    cohorts: Sequence[CohortView],
    processes: FleetProcesses,
    drops: FleetView | None,
) -> FleetSummary:
    own = [count for count in counts if count.fleet == fleet]
    of_fleet = [cohort for cohort in cohorts if cohort.fleet == fleet]
    return FleetSummary(
        fleet=fleet,
        devices=sum(count.devices for count in own),
        online=sum(count.devices for count in own if count.online),
        up_to_date=sum(cohort.up_to_date for cohort in of_fleet),
        cohorts=len(of_fleet),
        processes=processes,
        drops=drops,
    )


def _cohort_statuses(session: Session, cohorts: Mapping[int, CohortView]) -> dict[int, CohortStatus]:
    metrics = cohort_metrics(session, cohorts)
    return {
        key: CohortStatus(
            cohort=cohorts[key],
            **found._asdict(),
            exit_rates=found.exit_mix.rates,
            mean_cost_ms=_mean_cost_ms(found.exit_mix.rates, cohorts[key].costs),
        )
        for key, found in metrics.items()
    }


def _mean_cost_ms(rates: Sequence[float] | None, costs: CohortCosts | None) -> float | None:
    if rates is None or costs is None or costs.unit != "ms":
        return None
    return sum(rate * cost for rate, cost in zip(rates, costs.cumulative, strict=True))


def _over_budget(status: CohortStatus) -> Attention:
    cohort = status.cohort
    return Attention(
        kind="over budget",
        subject=str(cohort.address),
        text=f"revision {cohort.revision} costs {status.mean_cost_ms:.3g} ms per sample, its budget is "
        f"{cohort.budget_ms:g} ms",
        advice=f"edgeexit calibrator explain {cohort.address} says what would help",
    )


def _attention(
    session: Session,
    fleets: Sequence[FleetSummary],
    cohorts: Sequence[CohortView],
    over_budget: Sequence[Attention],
    *,
    now: datetime,
    per_kind: int,
) -> tuple[tuple[Attention, ...], dict[str, int]]:
    """Return the first few things of each kind, and the number of things of each kind."""
    devices = device_attention(session, [fleet.fleet for fleet in fleets], now=now, per_kind=per_kind)
    others = list(over_budget)
    for fleet in fleets:
        if fleet.devices or fleet.processes.has_run:
            others += process_attention(fleet.fleet, fleet.processes)
        if fleet.drops is not None and now - fleet.drops.last_drop_at < SHOWN_FOR:
            others.append(drops_attention(fleet.fleet, fleet.drops.drops, fleet.drops.last_drop))
    for cohort in cohorts:
        others += _of_cohort(cohort)
    if (size := size_report(session)) is not None and size.is_over:
        others.append(_database_full(size))
    counts: dict[str, int] = {}
    shown: list[Attention] = []
    for kind in KINDS:
        own = [item for item in others if item.kind == kind]
        own = [*own[:per_kind], *(item for item in devices.items if item.kind == kind)]
        number = len([item for item in others if item.kind == kind]) + devices.counts.get(kind, 0)
        if number:
            counts[kind] = number
            shown += own
    return tuple(shown), counts


def _database_full(size: SizeReport) -> Attention:
    used, limit = (f"{count / 1e9:.1f} GB" for count in (size.used_bytes, size.max_bytes))
    return Attention(
        kind="database full",
        subject="database",
        text=f"it has {used} and may have {limit}, although all that may be deleted was deleted",
        advice="raise --max-database-gb of `edgeexit calibrator run`, or see `edgeexit calibrator vacuum --dry-run`",
    )


def _of_cohort(cohort: CohortView) -> list[Attention]:
    found = []
    name = str(cohort.address)
    if cohort.unknown_revision is not None:
        found.append(
            Attention(
                kind="unknown revision",
                subject=name,
                text=f"a device claims revision {cohort.unknown_revision}, but the newest one here is revision "
                f"{cohort.revision}; devices refuse revisions that are not higher than their own",
                advice="if the database was lost or restored from a backup: edgeexit calibrator accept-revision "
                f"{name}",
            )
        )
    if cohort.condition is not None:
        found.append(
            Attention(
                kind="risk exceeded",
                subject=name,
                text=f"revision {cohort.revision}: {cohort.condition}",
                advice="edgeexit calibrator history shows why it stays",
            )
        )
    if cohort.loss == "regret" and not cohort.labelled and cohort.audits >= _ENOUGH_SAMPLES:
        found.append(
            Attention(
                kind="no labels",
                subject=name,
                text=f"none of {cohort.audits:,} audits has a label, so nothing is known of the regret, and no alarm "
                "can come",
                advice="pass labels to the agent, or register the cohort with --loss disagreement",
            )
        )
    return found
