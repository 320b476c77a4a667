"""`edgeexit calibrator status` and `history`: show what the database contains, and what needs attention."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from edgeexit.cli.calibrator import rows, status_rows
from edgeexit.cli.calibrator.shared_options import DATABASE, WIDE, DatabaseOption, JsonOption
from edgeexit.cli.calibrator.spans import span_of
from edgeexit.console import console, next_step, print_indented, print_json, print_table, printable

if TYPE_CHECKING:
    from edgeexit_calibration import Attention, CalibratorStatus

_HISTORIES: Final = 20
"""Registered cohorts whose history is shown unless one is named."""


def status_command(
    fleet: Annotated[str | None, typer.Option(help="Only this fleet; default: all fleets in the database.")] = None,
    max_cohorts: Annotated[
        int, typer.Option("--cohorts", help="Number of cohorts to show: registered ones first, then by devices.", min=0)
    ] = 10,
    database: DatabaseOption = DATABASE,
    as_json: JsonOption = False,
) -> None:
    """Show what needs attention; then fleets and cohorts: devices, revision, agreement, exit mix, latency.

    Where devices send labels, the accuracy follows. `edgeexit calibrator devices` lists devices.

    Example: `edgeexit calibrator status --database calibrator.sqlite`
    """
    from datetime import datetime, timezone

    from edgeexit_calibration import open_database, status

    store = open_database(database, create=False)
    found = status(store, now=datetime.now(timezone.utc), fleet=fleet, max_cohorts=max_cohorts)
    store.close()
    if as_json:
        print_json(found)
        return
    _print_attention(found.attention, found.attention_counts)
    for summary in found.fleets:
        console.print(printable(status_rows.fleet_line(summary)))
    if found.fleets:
        console.print()
    _print_cohorts(found)
    next_step(f"edgeexit calibrator trend --cohort COHORT --database {store.name}")


def _print_cohorts(found: "CalibratorStatus") -> None:
    if not found.cohorts:
        return
    is_wide = console.width >= WIDE
    cells = status_rows.cohort_cells if is_wide else status_rows.narrow_cohort_cells
    columns = status_rows.COHORT_COLUMNS if is_wide else status_rows.NARROW_COHORT_COLUMNS
    print_table("Cohorts", columns, [cells(status.cohort) for status in found.cohorts])
    metrics = status_rows.metric_cells if is_wide else status_rows.narrow_metric_cells
    columns = status_rows.METRIC_COLUMNS if is_wide else status_rows.NARROW_METRIC_COLUMNS
    print_table("Current revisions", columns, [metrics(status) for status in found.cohorts])
    labelled = [status for status in found.cohorts if status.accuracy.samples]
    if labelled:
        accuracies = [status_rows.accuracy_cells(status, is_wide=is_wide) for status in labelled]
        print_table("Accuracy of current revisions", status_rows.ACCURACY_COLUMNS, accuracies)
    if (more := found.cohorts_total - len(found.cohorts)) > 0:
        console.print(f"and {more:,} more cohorts, which --cohorts {found.cohorts_total} shows\n")


def _print_attention(attention: "Sequence[Attention]", counts: Mapping[str, int]) -> None:
    """Print the most urgent things, a few of each kind, and what to do about them."""
    if not attention:
        console.print("Nothing needs attention.\n")
        return
    console.print("[bold]Needs attention[/]")
    for kind, group in groupby(attention, key=lambda item: item.kind):
        items, number = list(group), counts[kind]
        same_advice = len({item.advice for item in items}) == 1
        console.print(f"[bold]{kind}[/]" + (f" ({number:,})" if number > 1 else ""))
        for item in items:
            print_indented(f"{item.subject}: {item.text}")
            if not same_advice:
                print_indented(f"-> {item.advice}")
        if (more := number - len({item.subject for item in items})) > 0:
            print_indented(f"and {more:,} more: edgeexit calibrator devices --trouble '{kind}'")
        if same_advice:
            print_indented(f"-> {items[0].advice}")
    console.print()


def history_command(
    cohort: Annotated[
        str | None, typer.Option(help="Only this cohort: COHORT, FLEET/COHORT or FLEET/BUNDLE/COHORT.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Only this device: DEVICE, SHARD/DEVICE or FLEET/SHARD/DEVICE.")
    ] = None,
    last: Annotated[str | None, typer.Option(help="Only entries of this time, e.g. 24h or 7d.")] = None,
    limit: Annotated[int, typer.Option(help="Number of newest entries in each list.", min=1)] = 50,
    database: DatabaseOption = DATABASE,
    as_json: JsonOption = False,
) -> None:
    """Show the newest policy revisions of cohorts, and the newest events of cohorts and devices: when, by whom, why.

    Example: `edgeexit calibrator history --cohort cameras --last 7d`
    """
    from datetime import datetime, timezone

    from edgeexit_calibration import device_events, events, find_cohorts, open_database, policy_history

    since = None if last is None else datetime.now(timezone.utc) - span_of("--last", last)
    store = open_database(database, create=False)
    chosen = [] if device is not None and cohort is None else find_cohorts(store, cohort, limit=_HISTORIES)
    histories = [
        (
            address,
            policy_history(store, address, since=since, limit=limit),
            events(store, address, since=since, limit=limit),
        )
        for address in chosen
    ]
    of_devices = []
    if cohort is None or device is not None:
        of_devices = device_events(store, device=device, since=since, limit=limit)
    store.close()
    if as_json:
        cohort_logs: list[dict[str, Any]] = [
            {**address._asdict(), "policies": policies, "events": log} for address, policies, log in histories
        ]
        print_json({"cohorts": cohort_logs, "device_events": of_devices})
        return
    is_wide = console.width >= WIDE
    columns = rows.POLICY_COLUMNS if is_wide else rows.NARROW_POLICY_COLUMNS
    policy_cells = rows.policy_cells if is_wide else rows.narrow_policy_cells
    for address, policies, log in histories:
        print_table(f"Policies of {address}", columns, [policy_cells(policy) for policy in policies])
        if log:
            print_table(f"Events of {address}", rows.EVENT_COLUMNS, [rows.cohort_event_cells(event) for event in log])
    if of_devices or device is not None:
        cells = [(event.device or "", *rows.event_cells(event)) for event in of_devices]
        print_table("Events of devices", ("device", *rows.EVENT_COLUMNS), cells)
    next_step(f"edgeexit calibrator status --database {store.name}")
