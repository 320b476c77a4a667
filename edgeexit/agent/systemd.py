"""Tells systemd how the service is (sd_notify(3)): ready, stopping, what it is doing, and that it is not hung.

Without systemd, nothing is told to anybody.
"""

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

_USEC: Final = 1e-6


class Notifier:
    """Speaks to the socket that `NOTIFY_SOCKET` names, a path or, with a leading @, an abstract name.

    Args:
        environment: of the process.

    Attributes:
        watchdog_s: how long systemd waits for a sign of life before it restarts the service; None: it does not wait.

    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self.watchdog_s = _watchdog_s(environment) if name else None

    def ready(self) -> None:
        """Say that the start is over."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in one line what the service is doing; `systemctl status` shows it."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Feed the watchdog, where there is one."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # a systemd that does not listen is no reason to stop
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line,
        ):
            line.setblocking(False)  # noqa: FBT003 - one that is stuck is none either
            line.sendto(state.encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's patience where it is meant for this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        patience_s = int(environment["WATCHDOG_USEC"]) * _USEC
    except (KeyError, ValueError):
        return None
    return patience_s if patience_s > 0 else None
