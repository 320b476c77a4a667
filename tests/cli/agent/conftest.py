"""Fixtures of the agent's tests, for its command."""

from tests.agent.conftest import broker, bundle, changed, config, fleet, half, key, key_path  # noqa: F401 - fixtures
