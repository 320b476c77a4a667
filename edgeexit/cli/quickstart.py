"""`edgeexit quickstart`: the whole loop on one machine, for a first look."""

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edgeexit.console import console, next_step, notes, print_json

if TYPE_CHECKING:
    from edgeexit.quickstart.fleet import Fleet


def quickstart_command(
    out: Annotated[Path, typer.Option(help="Folder of all that is made; an earlier quickstart's is replaced.")] = Path(
        "quickstart"
    ),
    seed: Annotated[int, typer.Option(help="Of data split, training and drift.")] = 0,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave broker, calibrator and agents up until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON; the story goes to stderr.")
    ] = False,
) -> None:
    """Train a small network, compile, fit, profile, run a fleet of two, let the data drift, and see it recalibrated.

    Example: `edgeexit quickstart --keep-running`
    """
    from edgeexit.quickstart.story import REPORT, tell

    stage = notes if as_json else console
    story = tell(out, stage, seed=seed, linger=partial(_linger, stage) if keep_running else None)
    if as_json:
        print_json(story)
        return
    program = "edgeexit" if shutil.which("edgeexit") else os.path.relpath(Path(sys.executable).with_name("edgeexit"))
    next_step(f"{program} inspect {out}/bundle")
    next_step(f"{program} calibrator history --database {out}/calibrator.sqlite")
    next_step(f"open {out}/{REPORT} in a browser, then bring your own model: {program} compile --help")


def _linger(stage: Console, fleet: "Fleet") -> None:
    """Keep the fleet up until Ctrl-C. Raises QuickstartError when a process ends by itself."""
    import time

    port = "" if fleet.ports.mqtt3 == 1883 else f"-p {fleet.ports.mqtt3} "  # noqa: PLR2004 - MQTT's own port
    stage.print(f"\nRunning until Ctrl-C. Listen in: mosquitto_sub {port}-t 'edgeexit/#' -v", soft_wrap=True)
    try:
        while True:
            fleet.check()
            time.sleep(1)
    except KeyboardInterrupt:
        stage.print("stopping")
