"""Fixtures: an agent whose endpoint listens on a free port, and a gate that blocks its inference."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgeexit.agent import Agent, AgentConfig, EndpointConfig
from edgeexit.agent.endpoint.server import Endpoint
from edgeexit.bundle import Bundle
from tests.agent.endpoint.client import Served


@pytest.fixture
def serve(bundle: Bundle, config: AgentConfig, changed: Callable[..., AgentConfig]) -> Iterator[Callable[..., Served]]:
    """Return a function that starts an agent and its endpoint; `options` configure the endpoint, `agent` the agent."""
    with contextlib.ExitStack() as resources:

        def start(*, agent: dict[str, Any] | None = None, **options: Any) -> Served:
            opened = resources.enter_context(Agent(bundle, changed(**(agent or {}))))
            endpoint = resources.enter_context(Endpoint(opened, EndpointConfig(port=0, **options)))
            return Served(opened, endpoint)

        yield start


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()
