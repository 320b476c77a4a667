"""`edgeexit quickstart`: trains a small model, deploys it to two agents and updates its policy, all on one machine."""

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
    out: Annotated[
        Path, typer.Option(help="Folder for all files; the folder of an earlier quickstart is replaced.")
    ] = Path("quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of the data split, the training and the drift.")] = 0,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Keep broker, calibrator and agents running until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and everything else to standard error.")
    ] = False,
) -> None:
    """Train a small model, compile it, fit a policy, run two agents, and recalibrate after the input data drifts.

    Example: `edgeexit quickstart --keep-running`
    """
    from edgeexit.quickstart.fleet import COHORT
    from edgeexit.quickstart.steps import REPORT, run_quickstart

    output = notes if as_json else console
    result = run_quickstart(out, output, seed=seed, before_stop=partial(_wait, output) if keep_running else None)
    if as_json:
        print_json(result)
        return
    program = "edgeexit" if shutil.which("edgeexit") else os.path.relpath(Path(sys.executable).with_name("edgeexit"))
    next_step(f"{program} inspect {out}/bundle")
    next_step(f"{program} calibrator explain {COHORT} --database {out}/calibrator.sqlite")
    next_step(f"{program} calibrator history --database {out}/calibrator.sqlite")
    next_step(f"open {out}/{REPORT} in a browser, then compile your own model: {program} compile --help")


def _wait(output: Console, fleet: "Fleet") -> None:
    """Wait until Ctrl-C. Raises QuickstartError if a process of the fleet ends."""
    import time

    port = "" if fleet.ports.mqtt3 == 1883 else f"-p {fleet.ports.mqtt3} "  # noqa: PLR2004 - the default port of MQTT
    output.print(f"\nRunning until Ctrl-C. To see the messages: mosquitto_sub {port}-t 'edgeexit/#' -v", soft_wrap=True)
    try:
        while True:
            fleet.check()
            time.sleep(1)
    except KeyboardInterrupt:
        output.print("stopping")
