"""Makes the fixtures of tests/backends/tensorrt/engines available here."""

from tests.backends.tensorrt.engines.conftest import ahead, build_config, cache, rtx, standin, tiny  # noqa: F401 - fixtures
