"""The fixtures of tests/deploy."""

from tests.deploy.conftest import bundles, device, device_folder, sshd, wheel, wheels, write_config  # noqa: F401 - fixtures
