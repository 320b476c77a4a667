"""`edgeexit calibrator bounds`: what the calibrator may do with the policy of a cohort by itself."""

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.cli.calibrator.shared_options import DATABASE, DatabaseOption, JsonOption, current_user
from edgeexit.console import console, next_step, print_json, printable
from edgeexit.formatting import percent

if TYPE_CHECKING:
    from edgeexit_calibration import CohortBounds

_TIME = "%Y-%m-%d %H:%M:%S UTC"
_LABEL_WIDTH = 22


def bounds_command(
    cohort: Annotated[
        str,
        typer.Argument(help="COHORT, FLEET/COHORT or FLEET/BUNDLE/COHORT, as `status` prints it.", metavar="COHORT"),
    ],
    frozen: Annotated[
        bool | None,
        typer.Option("--frozen/--no-frozen", help="Keep the policy as it is until an alarm.", show_default=False),
    ] = None,
    min_final_exits: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the samples, e.g. 0.2, that must at least reach the final exit; 0: no such bound."
        ),
    ] = None,
    max_changes_per_day: Annotated[
        int | None,
        typer.Option(help="Bolder policies in a day; without it, that of `edgeexit calibrator run` applies."),
    ] = None,
    min_gain: Annotated[
        float | None,
        typer.Option(help="Fraction of the cost, e.g. 0.05, that a bolder policy must save; without it, 0.03."),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove all bounds first; other options then set new ones.")
    ] = False,
    database: DatabaseOption = DATABASE,
    as_json: JsonOption = False,
) -> None:
    """Set the bounds within which the calibrator may change a policy by itself; without options, show them.

    A running calibrator keeps them from its next check on. It always steps back to full depth after an alarm.

    Example: `edgeexit calibrator bounds cameras --min-final-exits 0.2 --max-changes-per-day 2`
    """
    import msgspec
    from edgeexit_calibration import PolicyBounds, cohort_bounds, open_database, set_bounds

    store = open_database(database, create=False)
    given = {
        name: value
        for name, value in {
            "frozen": frozen,
            "min_final_exits": min_final_exits,
            "max_changes_per_day": max_changes_per_day,
            "min_gain": min_gain,
        }.items()
        if value is not None
    }
    found = cohort_bounds(store, cohort)
    if given or clear:
        before = {} if clear else msgspec.structs.asdict(found.bounds)
        bounds = PolicyBounds(**{**before, **given})
        found = set_bounds(store, cohort, bounds, user=current_user(), now=datetime.now(timezone.utc))
    store.close()
    if as_json:
        print_json(found)
        return
    console.print(printable(f"{found.address}: {_who(found)}"), soft_wrap=True)
    for label, text in _lines(found):
        console.print(f"[bold]{label:{_LABEL_WIDTH}}[/]{printable(text)}", soft_wrap=True)
    next_step(f"edgeexit calibrator explain {found.address} --database {store.name}")


def _who(found: "CohortBounds") -> str:
    if found.set_by is None or found.set_at is None:
        return "no bounds are set"
    return f"bounds set by {found.set_by} on {found.set_at:{_TIME}}"


def _lines(found: "CohortBounds") -> list[tuple[str, str]]:
    """Return the name and the value of each bound."""
    bounds = found.bounds
    day, gain = bounds.max_changes_per_day, bounds.min_gain
    return [
        ("frozen", "yes: the policy changes after an alarm only" if bounds.frozen else "no"),
        (
            "min-final-exits",
            f"{percent(bounds.min_final_exits)} of the samples" if bounds.min_final_exits else "none",
        ),
        ("max-changes-per-day", "as `edgeexit calibrator run` says" if day is None else str(day)),
        ("min-gain", "the calibrator's own" if gain is None else f"{percent(gain)} of the cost"),
    ]
