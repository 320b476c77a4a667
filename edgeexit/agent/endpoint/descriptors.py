"""How many connections the limit on open files allows: a connection is a file descriptor."""

import logging
import resource
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

_RESERVE: Final = 32
"""Descriptors for everything else that the process may open: the outbox, policies, the broker, the application."""
_UNKNOWN_IN_USE: Final = 64


def connection_limit(max_connections: int) -> int:
    """Return how many connections may be open: `max_connections`, or fewer if the limit on open files is too low.

    The soft limit of the process is raised as far as the hard limit allows and `max_connections` needs. A limit that
    stays too low is logged with what to do.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = _descriptors_in_use()
    needed = in_use + max_connections + _RESERVE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = _raise_soft_limit(soft, hard, needed)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return max_connections
    fits = max(1, soft - in_use - _RESERVE)
    _log.warning(
        "the process may open %d files and uses %d, so max_connections = %d is reduced to %d; raise the limit "
        "(LimitNOFILE= in the systemd unit, ulimit -n in a shell) to %d, or reduce max_connections under [endpoint]",
        soft,
        in_use,
        max_connections,
        fits,
        needed,
    )
    return fits


def _raise_soft_limit(soft: int, hard: int, needed: int) -> int:
    """Return the soft limit on open files after raising it as far as possible."""
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a sandbox may forbid it
        return soft
    if wanted != soft:
        _log.info("raised the limit on open files of this process from %d to %d", soft, wanted)
    return wanted


def _descriptors_in_use() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return _UNKNOWN_IN_USE
