"""`edgeexit calibrator status` and `history`: show what the database contains, and what needs attention."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from edgeexit.cli.calibrator import rows
from edgeexit.cli.calibrator.shared_options import DATABASE, DatabaseOption, JsonOption
from edgeexit.console import console, next_step, print_indented, print_json, print_table

if TYPE_CHECKING:
    from edgeexit_calibration import Attention, CohortView, Database

_MAX_OF_A_KIND: Final = 3


def status_command(database: DatabaseOption = DATABASE, as_json: JsonOption = False) -> None:
    """Show what needs attention; then devices and cohorts: revision, agreement with the final exit, exit mix, latency.

    Example: `edgeexit calibrator status --database calibrator.sqlite`
    """
    from datetime import datetime, timezone

    from edgeexit_calibration import cohorts, devices, fleets, needs_attention, open_database

    store = open_database(database, create=False)
    all_devices, all_fleets = devices(store), fleets(store)
    statuses = [_cohort_status(store, cohort) for cohort in cohorts(store)]
    store.close()
    all_cohorts = [status["cohort"] for status in statuses]
    attention = needs_attention(all_devices, all_cohorts, all_fleets, now=datetime.now(timezone.utc))
    if as_json:
        print_json({"attention": attention, "devices": all_devices, "cohorts": statuses, "fleets": all_fleets})
        return
    _print_attention(attention)
    print_table("Devices", rows.DEVICE_COLUMNS, [rows.device_cells(device) for device in all_devices])
    print_table("Cohorts", rows.COHORT_COLUMNS, [rows.cohort_cells(status["cohort"]) for status in statuses])
    print_table("Current revisions", rows.METRIC_COLUMNS, [rows.metric_cells(status) for status in statuses])
    next_step(f"edgeexit calibrator history --database {store.name}")


def _print_attention(attention: "Sequence[Attention]") -> None:
    """Print the most urgent things, a few of each kind, and what to do about them."""
    if not attention:
        console.print("Nothing needs attention.\n")
        return
    console.print("[bold]Needs attention[/]")
    for kind, group in groupby(attention, key=lambda item: item.kind):
        items = list(group)
        same_advice = len({item.advice for item in items}) == 1
        console.print(f"[bold]{kind}[/]" + (f" ({len(items)})" if len(items) > 1 else ""))
        for item in items[:_MAX_OF_A_KIND]:
            print_indented(f"{item.subject}: {item.text}")
            if not same_advice:
                print_indented(f"-> {item.advice}")
        if len(items) > _MAX_OF_A_KIND:
            print_indented(f"and {len(items) - _MAX_OF_A_KIND} more, which --json lists")
        if same_advice:
            print_indented(f"-> {items[0].advice}")
    console.print()


def history_command(database: DatabaseOption = DATABASE, as_json: JsonOption = False) -> None:
    """Show all policy revisions of every cohort, and all events of cohorts and devices: when, by whom, and why.

    Example: `edgeexit calibrator history --database calibrator.sqlite`
    """
    from edgeexit_calibration import cohorts, device_events, events, open_database, policy_history

    store = open_database(database, create=False)
    histories = [
        (cohort, policy_history(store, cohort.address), events(store, cohort.address)) for cohort in cohorts(store)
    ]
    of_devices = device_events(store)
    store.close()
    if as_json:
        cohort_logs = [
            {**cohort.address._asdict(), "policies": policies, "events": log} for cohort, policies, log in histories
        ]
        print_json({"cohorts": cohort_logs, "device_events": of_devices})
        return
    for cohort, policies, log in histories:
        title = f"Policies of {cohort.address}"
        print_table(title, rows.POLICY_COLUMNS, [rows.policy_cells(policy) for policy in policies])
        print_table(f"Events of {cohort.address}", rows.EVENT_COLUMNS, [rows.event_cells(event) for event in log])
    if of_devices:
        cells = [(event.device or "", *rows.event_cells(event)) for event in of_devices]
        print_table("Events of devices", ("device", *rows.EVENT_COLUMNS), cells)
    next_step(f"edgeexit calibrator status --database {store.name}")


def _cohort_status(store: "Database", cohort: "CohortView") -> dict[str, Any]:
    """Return a cohort and the metrics of its current revision; of all revisions if it is not registered."""
    from edgeexit_calibration import disagreement, exit_mix

    mix = exit_mix(store, cohort.address, revision=cohort.revision)
    return {
        "cohort": cohort,
        "disagreement": disagreement(store, cohort.address, revision=cohort.revision),
        "exit_mix": mix,
        "exit_rates": mix.rates,
    }
