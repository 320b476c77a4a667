"""`edgeexit fleet`: simulates a fleet of devices."""

import typer

from edgeexit.cli.fleet.simulate_command import simulate_command

__all__ = ["fleet_app"]

fleet_app = typer.Typer(
    name="fleet",
    help="Tests a broker, a calibrator and a database with simulated devices.",
    no_args_is_help=True,
)


@fleet_app.callback()
def _group() -> None:
    """Test a broker, a calibrator and a database with simulated devices."""


fleet_app.command("simulate")(simulate_command)
