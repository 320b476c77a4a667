"""The fixtures of the engines' own tests."""

from tests.backends.tensorrt.engines.conftest import ahead, build_config, cache, rtx, standin, tiny  # noqa: F401 - fixtures
