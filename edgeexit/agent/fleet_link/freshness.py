"""Notices without a clock that a broker withholds policies: by the signed heartbeats of the device's cohort."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeexit.agent.checked_file import read_checked, write_checked
from edgeexit.agent.policy.check import Recipient
from edgeexit.errors import MessageError
from edgeexit.key_set import TrustedKeys
from edgeexit.wire import HEARTBEAT_TYPE, Confirmation, Heartbeat, decode

_log = logging.getLogger(__name__)

_SAVE_S: Final = 3600.0


class Freshness:
    """The newest heartbeat of the device's cohort, and whether it is recent. One thread at a time may use it.

    A heartbeat proves that the broker passes on what the calibrator publishes now, because its counter is higher than
    that of the last one. The newest counter is stored at most once an hour, and by `close`. So after a power cut, a
    broker can repeat the heartbeats of one hour.

    Args:
        folder: state folder.
        recipient: this device.
        within_s: seconds of uptime without a newer heartbeat, or without the policy that it names, after which the
            device is unconfirmed.
        clock: returns monotonic seconds.

    Attributes:
        confirmed: the newest heartbeat, also of earlier starts; None before the first one.
        unconfirmed: True if the device may miss policies.

    """

    def __init__(
        self, folder: Path, recipient: Recipient, *, within_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._recipient = recipient
        self._within_s = within_s
        self._clock = clock
        # Names contain no dots, so different names give different files.
        self._path = folder / f"heartbeat.{recipient.fleet}.{recipient.cohort}.{recipient.bundle[:16]}.json"
        self.confirmed = self._load()
        self.unconfirmed = False
        self._newest_at = self._saved_at = self._complete_at = clock()
        self._unsaved = False

    def receive(self, envelope: bytes, keys: TrustedKeys) -> None:
        """Take a heartbeat into account if it is newer than the last one; one that is not newer changes nothing.

        Raises SignatureError if the keys for policies did not sign it, and MessageError if it is for another cohort.
        """
        heartbeat = decode(keys.verify(envelope, payload_type=HEARTBEAT_TYPE, role="policy"), Heartbeat)
        for what in ("fleet", "bundle", "cohort"):
            found, own = getattr(heartbeat, what), getattr(self._recipient, what)
            if found != own:
                raise MessageError(f"heartbeat is for {what} '{found}', this {what} is '{own}'")
        if self.confirmed is None or heartbeat.counter > self.confirmed.counter:
            self.confirmed = Confirmation(counter=heartbeat.counter, revision=heartbeat.revision)
            self._newest_at = self._clock()
            self._unsaved = True

    def check(self, received: int, *, can_verify: bool) -> None:
        """Decide whether the device is unconfirmed; log when that changes, and store the counter if it is time for it.

        Args:
            received: the highest revision of the cohort's policies that has arrived.
            can_verify: whether there are keys that may sign heartbeats; without, the device is not expected to
                receive any, and nothing is logged.

        """
        now = self._clock()
        if self.confirmed is None or self.confirmed.revision <= received:
            self._complete_at = now
        reason = None
        if now - self._newest_at > self._within_s:
            reason = "no newer heartbeat of the calibrator arrived"
        elif now - self._complete_at > self._within_s and self.confirmed is not None:
            reason = f"revision {self.confirmed.revision} that the calibrator names did not arrive"
        if (reason is not None) != self.unconfirmed:
            self.unconfirmed = reason is not None
            if reason is not None and can_verify:
                _log.warning(
                    "unconfirmed: for %g s, %s; the calibrator is down or the broker withholds messages",
                    self._within_s, reason,
                )  # fmt: skip
            elif can_verify:
                _log.info("confirmed again by heartbeat %d", 0 if self.confirmed is None else self.confirmed.counter)
        if self._unsaved and now - self._saved_at >= _SAVE_S:
            self._save()

    def close(self) -> None:
        """Store the newest counter."""
        if self._unsaved:
            self._save()

    def _save(self) -> None:
        self._saved_at = self._clock()
        if self.confirmed is None:
            return
        try:
            write_checked(self._path, self.confirmed)
        except OSError as error:
            _log.info("the counter of the last heartbeat cannot be stored: %s", error.strerror or error)
        else:
            self._unsaved = False

    def _load(self) -> Confirmation | None:
        try:
            return read_checked(self._path, Confirmation)
        except (OSError, ValueError) as error:
            _log.warning("the counter of the last heartbeat is not used: %s", error)
            return None
