"""`edgeexit calibrator accept-revision`."""

from datetime import datetime, timezone

import pytest
from edgeexit_calibration import open_database
from edgeexit_calibration.ingest.uplink import Uplink
from typer.testing import CliRunner

from edgeexit.cli.calibrator import calibrator_app
from edgeexit.errors import EdgeExitError
from tests.calibration.scenario import COHORT, DEVICE, FLEET, state_of, store_uplinks


def invoke(*arguments):
    return CliRunner().invoke(calibrator_app, list(arguments), catch_exceptions=False).output


def test_the_command_prints_what_was_accepted_and_the_next_step(tmp_path):
    url = str(tmp_path / "calibrator.sqlite")
    database = open_database(url)
    with database.writing() as session:
        store_uplinks(
            session, [Uplink(DEVICE, state_of("d" * 64, revision=7))], now=datetime(2025, 1, 1, tzinfo=timezone.utc)
        )
    database.close()
    output = invoke("accept-revision", COHORT, "--database", url)
    assert f"{FLEET}/{'d' * 12}/{COHORT}: further revisions are above 7" in output
    assert "edgeexit calibrator register" in output
    assert "above 12" in invoke("accept-revision", f"{FLEET}/{COHORT}", "--revision", "12", "--database", url)
    with pytest.raises(EdgeExitError, match="no device claims a revision"):
        invoke("accept-revision", COHORT, "--database", url)
