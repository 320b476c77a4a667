"""The fixtures of the calibrator's own tests."""

from tests.calibration.conftest import broker, bundle, database  # noqa: F401 - fixtures
