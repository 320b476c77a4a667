"""The agent as a service: the endpoint it is asked through, its heartbeat, and what systemd is told."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from edgeexit.agent.heartbeat import Heartbeat
from edgeexit.errors import ConfigError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from edgeexit.agent.agent import Agent
    from edgeexit.agent.config import EndpointConfig
    from edgeexit.agent.endpoint.server import Endpoint
    from edgeexit.agent.systemd import Notifier

_log = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 10.0


@contextlib.contextmanager
def listening(config: EndpointConfig, *, by_default: bool) -> Iterator[Sequence[socket.socket]]:
    """Hold the endpoint's sockets, none where it is off, as long as the block runs.

    Entered before the agent is: a port that is taken ends the start before the fleet hears of it. Raises ConfigError,
    as `serving` does.
    """
    with contextlib.ExitStack() as life:
        sockets = _server().listen(config) if _is_on(config, by_default=by_default) else []
        for one in sockets:
            life.enter_context(one)
        yield sockets


@contextlib.contextmanager
def serving(
    agent: Agent,
    config: EndpointConfig,
    *,
    by_default: bool,
    notifier: Notifier,
    sockets: Sequence[socket.socket] = (),
) -> Iterator[Endpoint | None]:
    """Serve an open agent as long as the block runs: endpoint, where it is on, heartbeat, and word to systemd.

    The watchdog is fed, and the endpoint is ready, only while a golden sample that takes the way of a client's request
    is answered.

    Args:
        agent: an open one.
        config: of the endpoint.
        by_default: whether the endpoint is on where the configuration does not say.
        notifier: to systemd.
        sockets: of `listening`; default: opened here.

    Raises ConfigError for an address that cannot be listened on, and where tornado is not installed.

    """
    with contextlib.ExitStack() as life:
        endpoint = None
        if _is_on(config, by_default=by_default):
            endpoint = life.enter_context(_server().Endpoint(agent, config, sockets))

        def tell(alive: bool) -> None:  # noqa: FBT001 - the only thing that there is to tell
            if endpoint is not None:
                endpoint.tell(ready=alive)
            if alive:
                notifier.alive()

        heartbeat = Heartbeat(
            agent.probe if endpoint is None else endpoint.probe,
            progress=lambda: agent.answered,
            tell=tell,
            interval_s=_HEARTBEAT_S if notifier.watchdog_s is None else notifier.watchdog_s / 2,
        )
        life.enter_context(heartbeat)
        notifier.ready()
        try:
            yield endpoint
        finally:
            notifier.stopping()


def _is_on(config: EndpointConfig, *, by_default: bool) -> bool:
    return by_default if config.enabled is None else config.enabled


def _server() -> ModuleType:
    try:
        from edgeexit.agent.endpoint import server  # noqa: PLC0415 - tornado, only where it is needed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tornado":
            raise
        raise ConfigError(
            "the endpoint needs tornado; install edgeexit[endpoint], or set enabled = false under [endpoint]"
        ) from error
    return server
