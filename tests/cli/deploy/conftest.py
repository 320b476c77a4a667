"""The fixtures of the deployment's own tests."""

from tests.deploy.conftest import bundles, configured, device, device_folder, sshd, wheel, wheels  # noqa: F401 - fixtures
