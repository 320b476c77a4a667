"""Runs the agent as a service: the local endpoint, the health check, and notifications to systemd."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from edgeexit.agent.health_check import HealthCheck
from edgeexit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from edgeexit.agent.agent import Agent
    from edgeexit.agent.config import EndpointConfig
    from edgeexit.agent.endpoint.listening import Listeners
    from edgeexit.agent.endpoint.server import Endpoint
    from edgeexit.agent.systemd import Notifier

_log = logging.getLogger(__name__)

_HEALTH_CHECK_S: Final = 10.0


@contextlib.contextmanager
def listening(config: EndpointConfig, *, by_default: bool) -> Iterator[Listeners | None]:
    """Open the endpoint's sockets while the block runs; yield None if the endpoint is disabled.

    Enter this before the agent: if the port is in use, the process then ends before it connects to the broker.

    Raises ConfigError if the address is not available, or httptools is not installed.
    """
    with contextlib.ExitStack() as resources:
        is_enabled = _is_enabled(config, by_default=by_default)
        yield resources.enter_context(_server().listen(config)) if is_enabled else None


@contextlib.contextmanager
def serving(
    agent: Agent,
    config: EndpointConfig,
    *,
    by_default: bool,
    notifier: Notifier,
    listeners: Listeners | None = None,
) -> Iterator[Endpoint | None]:
    """Serve an open agent while the block runs: endpoint (if it is enabled), health check and systemd.

    The endpoint is ready and the systemd watchdog is reset only while inference works: a golden sample, on the path of
    a client's request, completes in time, or other inferences complete.

    Args:
        agent: an open agent.
        config: configuration of the endpoint.
        by_default: whether the endpoint is enabled if the configuration does not set `enabled`.
        notifier: sends notifications to systemd.
        listeners: result of `listening`; default: sockets are opened here.

    Raises ConfigError if the address is not available, or httptools is not installed.

    """
    with contextlib.ExitStack() as resources:
        endpoint = None
        if _is_enabled(config, by_default=by_default):
            endpoint = resources.enter_context(_server().Endpoint(agent, config, listeners))

        def report_health(healthy: bool) -> None:  # noqa: FBT001 - the only parameter
            if endpoint is not None:
                endpoint.set_ready(ready=healthy)
            if healthy:
                notifier.alive()

        health_check = HealthCheck(
            agent.probe if endpoint is None else endpoint.probe,
            completed_batches=lambda: agent.completed_batches,
            on_check=report_health,
            interval_s=_HEALTH_CHECK_S if notifier.watchdog_s is None else notifier.watchdog_s / 2,
        )
        resources.enter_context(health_check)
        notifier.ready()
        try:
            yield endpoint
        finally:
            notifier.stopping()


def _is_enabled(config: EndpointConfig, *, by_default: bool) -> bool:
    return by_default if config.enabled is None else config.enabled


def _server() -> ModuleType:
    try:
        from edgeexit.agent.endpoint import server  # noqa: PLC0415 - imports httptools, which is optional
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "httptools":
            raise
        raise ConfigError(
            "the endpoint needs httptools; install edgeexit[endpoint], or set enabled = false under [endpoint]"
        ) from error
    return server
