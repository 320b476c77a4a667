"""Options of small simulated fleets."""

from edgeexit.simulate import SimulationOptions
from tests.calibration.scenario import COHORT, FLEET


def options_of(**fields) -> SimulationOptions:
    """Return the options of a small fleet in the one shard that the calibrator of the tests knows."""
    defaults = {"fleet": FLEET, "cohort": COHORT, "devices": 12, "shards": 1, "connections": 3, "rate": 300.0,
                "reports": 200, "audit_fraction": 0.05, "resend_s": 3.0, "settle_s": 30.0}  # fmt: skip
    return SimulationOptions(**{**defaults, **fields})
