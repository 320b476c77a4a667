"""The fixtures of tests/backends/tensorrt/engines."""

from tests.backends.tensorrt.engines.conftest import ahead, build_config, cache, rtx, standin, tiny  # noqa: F401 - fixtures
