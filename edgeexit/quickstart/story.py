"""The quickstart's seven steps, in order: train, compile, fit, profile, start, drift and update, stop."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from edgeexit.console import print_table
from edgeexit.npz import save_arrays
from edgeexit.quickstart.build import DELTA, RISK, fit_policies, profile_stages, say, train_and_compile
from edgeexit.quickstart.digits import load_digits
from edgeexit.quickstart.drill import as_arrays, run_drill
from edgeexit.quickstart.fleet import Fleet, QuickstartError
from edgeexit.quickstart.report import Story, write_report

REPORT: Final = "quickstart-report.html"

_MARKER = ".edgeexit-quickstart"


def tell(folder: Path, console: Console, *, seed: int, linger: Callable[[Fleet], None] | None = None) -> Story:
    """Run the seven steps in `folder` and return their figures.

    Args:
        folder: made anew; an earlier quickstart's is replaced, anything else is refused.
        console: where the paragraphs and tables go.
        seed: of data split, training and drift.
        linger: called with the running fleet before it is stopped.

    Raises QuickstartError when a step does not do what the story needs.

    """
    _make_folder(folder)
    digits = load_digits(seed)
    save_arrays(folder / "heldout.npz", as_arrays(digits.held_out))
    save_arrays(folder / "test.npz", as_arrays(digits.test))

    bundle = train_and_compile(console, folder / "bundle", digits, seed=seed)
    evaluations, policy = fit_policies(console, bundle, digits)
    profile = profile_stages(console, bundle, digits, policy)
    with Fleet(folder) as fleet:
        drill = run_drill(console, fleet, bundle, digits.stream, seed=seed)
        story = Story(
            model=bundle.manifest.model,
            exits=bundle.manifest.exits,
            policy=policy.kind,
            risk=RISK,
            delta=DELTA,
            evaluations=evaluations,
            profile=profile,
            drill=drill,
        )
        columns, rows = story.table()
        print_table("Before and after", columns, rows, to=console)
        console.print(story.caption)
        write_report(folder / REPORT, story)
        if drill.after.disagreement.low > RISK:
            raise QuickstartError(
                f"the update did not bring agreement back: {drill.after.disagreement.observed:.1%} disagreement "
                f"where {RISK:.0%} is certified; see {folder / REPORT}"
            )
        if linger is not None:
            linger(fleet)
    say(console, 7, "Stop", f"Everything that was started is stopped. Bundle, database and report stay in {folder}/.")
    return story


def _make_folder(folder: Path) -> None:
    if folder.exists():
        if not (folder / _MARKER).exists():
            raise QuickstartError(f"'{folder}' exists and is not an earlier quickstart's; give another with --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()
