"""Logs the beginning and the end of an outage of the database once each."""

import logging

from edgeexit_calibration.store.database import DatabaseError

_log = logging.getLogger(__name__)


class OutageLog:
    """Logs the outages of the database.

    Args:
        activity: what the service pauses during an outage; a part of the log messages.

    """

    def __init__(self, activity: str) -> None:
        self._activity = activity
        self._in_outage = False

    def failed(self, error: DatabaseError) -> None:
        """Log the error if it is the first one of this outage."""
        if not self._in_outage:
            self._in_outage = True
            _log.warning("%s; pausing %s until the database works again", error, self._activity)

    def succeeded(self) -> None:
        """Log the end of an outage, if there was one."""
        if self._in_outage:
            self._in_outage = False
            _log.info("database reachable again; resuming %s", self._activity)
