"""Reports the state of the service to systemd (sd_notify(3)): ready, status, watchdog, stopping.

Without systemd all calls do nothing.
"""

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

_USEC: Final = 1e-6


class Notifier:
    """Sends to the socket that `NOTIFY_SOCKET` names: a path, or an abstract name with a leading @.

    Args:
        environment: environment of the process.

    Attributes:
        watchdog_s: seconds without `alive` after which systemd restarts the service; None: there is no watchdog.

    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self.watchdog_s = _watchdog_s(environment) if name else None

    def ready(self) -> None:
        """Report that the service has started."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Reset the watchdog, if there is one."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # the service works without systemd, too
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection,
        ):
            connection.setblocking(False)  # noqa: FBT003 - a receiver that hangs must not block the service
            connection.sendto(state.encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's timeout if it is meant for this process, else None."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        timeout_s = int(environment["WATCHDOG_USEC"]) * _USEC
    except (KeyError, ValueError):
        return None
    return timeout_s if timeout_s > 0 else None
