"""Decides after each connection how long to wait, and with which version of MQTT to connect next."""

import random
from enum import Enum
from typing import Final, Literal, NamedTuple

Version = Literal["5", "3.1.1"]

_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 30.0
_STABLE_S: Final = 30.0
"""A connection that lasted longer was stable: the back-off starts again with the first delay."""
_ATTEMPTS: Final = 2
"""Connections without an answer after which the other version is tried."""
_ATTEMPTS_PROVEN: Final = 10
"""The same after a connection with this version: then the broker probably restarts, and still supports the version."""
_PROBE_INTERVAL_S: Final = 600.0
"""Minimum seconds between two attempts to return to MQTT 5: a broker without it may leave each unanswered."""


class ConnectionEnd(Enum):
    """How a connection, or the attempt to connect, ended."""

    UNREACHABLE = "no connection to a broker: DNS, TCP, proxy, TLS, WebSocket, or a file of the configuration"
    UNANSWERED = "connected, but no CONNACK"
    UNSUPPORTED = "a CONNACK that refuses the version of MQTT"
    REFUSED = "a CONNACK that refuses the client"
    LOST = "the accepted connection was lost"


class Ending(NamedTuple):
    """The end of a connection, or of the attempt to connect."""

    end: ConnectionEnd
    reason: str
    lasted_s: float = 0.0
    unexplained: bool = False
    """True: the broker closed an accepted connection and gave no reason."""
    silent: bool = False
    """True: the broker did not close the connection either; a second attempt would take as long."""
    taken_over: bool = False
    """True: another client with the same id has connected."""


class Reconnecting:
    """The back-off and the choice of the version, from what happened before. Times are monotonic seconds.

    MQTT 5 comes first. The client changes the version if the broker refuses it or does not respond to it. With 3.1.1
    it tries MQTT 5 again when a connection was lost, and returns to 3.1.1 at once if that fails.
    """

    def __init__(self) -> None:
        self.version: Version = "5"
        self._proven: Version | None = None
        self._unanswered = 0
        self._probing = False
        self._probe_due = 0.0
        self._delay_s = _FIRST_DELAY_S

    def accepted(self) -> None:
        """Record that the broker has accepted a connection with `version`."""
        self._proven = self.version
        self._probing = False
        self._unanswered = 0

    def ended(self, ending: Ending, *, now: float) -> float:
        """Record the end of a connection; return the seconds to wait before the next attempt, with jitter."""
        self._choose_version(ending, now)
        if ending.lasted_s > _STABLE_S:
            self._delay_s = _FIRST_DELAY_S
        if ending.taken_over:  # two clients with one id end each other's connections; do that slowly
            self._delay_s = _MAX_DELAY_S
        delay_s = self._delay_s
        self._delay_s = min(delay_s * 2, _MAX_DELAY_S)
        return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not cryptography

    def _choose_version(self, ending: Ending, now: float) -> None:
        end = ending.end
        if end is ConnectionEnd.UNREACHABLE:
            return
        if end is ConnectionEnd.LOST:
            if self.version == "3.1.1" and now >= self._probe_due:
                self.version, self._probing = "5", True
            return
        if self._probing:
            self.version, self._probing = "3.1.1", False
            self._probe_due = now + _PROBE_INTERVAL_S
            self._unanswered = 0
            return
        self._unanswered = self._unanswered + 1 if end is ConnectionEnd.UNANSWERED else 0
        attempts = _ATTEMPTS_PROVEN if self._proven == self.version else 1 if ending.silent else _ATTEMPTS
        if end is ConnectionEnd.UNSUPPORTED or self._unanswered >= attempts:
            self.version = "3.1.1" if self.version == "5" else "5"
            self._unanswered = 0
