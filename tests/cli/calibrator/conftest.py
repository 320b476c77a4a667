"""The fixtures of tests/calibration."""

from tests.calibration.conftest import broker, bundle, database, database_url  # noqa: F401 - fixtures
