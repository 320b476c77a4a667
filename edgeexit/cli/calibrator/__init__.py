"""`edgeexit calibrator`: register cohorts, run the calibrator service, show its database, send commands to devices."""

from edgeexit.cli.calibrator.commands import calibrator_app

__all__ = ["calibrator_app"]
