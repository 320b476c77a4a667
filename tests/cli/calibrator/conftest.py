"""The fixtures of tests/calibration."""

from tests.calibration.conftest import broker, bundle, database  # noqa: F401 - fixtures
