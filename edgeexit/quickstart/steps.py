"""Runs the seven steps of the quickstart: train, compile, fit, profile, start a fleet, drift and recalibrate, stop."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from edgeexit.console import print_table
from edgeexit.npz import save_arrays
from edgeexit.quickstart.build import DELTA, RISK, fit_policies, profile_stages, train_and_compile
from edgeexit.quickstart.digits import load_digits
from edgeexit.quickstart.drift_demo import as_arrays, run_drift_demo
from edgeexit.quickstart.fleet import Fleet, QuickstartError
from edgeexit.quickstart.output import print_step
from edgeexit.quickstart.report import QuickstartResult, write_report

REPORT: Final = "quickstart-report.html"

_MARKER = ".edgeexit-quickstart"


def run_quickstart(
    folder: Path, console: Console, *, seed: int, before_stop: Callable[[Fleet], None] | None = None
) -> QuickstartResult:
    """Run the seven steps in `folder` and return their results.

    Args:
        folder: is created. The folder of an earlier quickstart is replaced; any other existing folder is an error.
        console: receives the descriptions of the steps and the tables.
        seed: seed of the data split, the training and the drift.
        before_stop: is called with the running fleet before the fleet stops.

    Raises QuickstartError if a step fails.

    """
    _create_folder(folder)
    digits = load_digits(seed)
    save_arrays(folder / "heldout.npz", as_arrays(digits.held_out))
    save_arrays(folder / "test.npz", as_arrays(digits.test))

    bundle = train_and_compile(console, folder / "bundle", digits, seed=seed)
    evaluations, policy = fit_policies(console, bundle, digits)
    profile = profile_stages(console, bundle, digits, policy)
    with Fleet(folder) as fleet:
        demo = run_drift_demo(console, fleet, bundle, digits.stream, seed=seed)
        result = QuickstartResult(
            model=bundle.manifest.model,
            exits=bundle.manifest.exits,
            policy=policy.kind,
            risk=RISK,
            delta=DELTA,
            evaluations=evaluations,
            profile=profile,
            drift_demo=demo,
        )
        columns, rows = result.table()
        print_table("Before the drift and after it", columns, rows, to=console)
        console.print(result.caption)
        write_report(folder / REPORT, result)
        if demo.end.disagreement.low > RISK:
            raise QuickstartError(
                f"the disagreement at the end is {100 * (demo.end.disagreement.observed or 0):.1f} %, significantly "
                f"above the certified {100 * RISK:g} %; see {folder / REPORT}"
            )
        if before_stop is not None:
            before_stop(fleet)
    print_step(
        console,
        7,
        "Stop",
        f"Broker, calibrator and agents are stopped. Bundle, database, logs and report are in {folder}/.",
    )
    return result


def _create_folder(folder: Path) -> None:
    if folder.exists():
        if not (folder / _MARKER).exists():
            raise QuickstartError(f"'{folder}' exists and is not from an earlier quickstart; choose another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()
