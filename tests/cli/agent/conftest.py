"""The fixtures of the agent's own tests."""

from tests.agent.conftest import broker, bundle, changed, config, fleet, half, key, key_path  # noqa: F401 - fixtures
