"""Fixtures of the recalibration."""

import pytest
from edgeexit_calibration import register

from tests.calibration.recalibrate.watching import GOAL
from tests.calibration.scenario import COHORT


@pytest.fixture
def cohort(database, bundle):
    """The address of a registered cohort."""
    return register(database, bundle, cohort=COHORT, **GOAL).cohort
