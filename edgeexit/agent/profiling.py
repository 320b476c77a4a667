"""A profile that the fleet asks for: measured in a thread of its own, one at a time."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from edgeexit.agent.policy_store import one_line
from edgeexit.bundle import Bundle
from edgeexit.latency import LatencyProfile
from edgeexit.policies import AnyPolicy

_log = logging.getLogger(__name__)

_SECONDS: Final = 1.0
_MAX_S: Final = 10.0


class ProfileOnCommand:
    """Measures a bundle on this machine when it is told to.

    Args:
        bundle: what to measure.
        policy: gives the policy in force.
        publish: takes the profile; raw samples stay off the wire.

    """

    def __init__(
        self, bundle: Bundle, *, policy: Callable[[], AnyPolicy], publish: Callable[[LatencyProfile], None]
    ) -> None:
        self._bundle = bundle
        self._policy = policy
        self._publish = publish
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless one is being taken."""
        if self._thread is not None and self._thread.is_alive():
            _log.info("a profile is being taken already")
            return
        self._thread = threading.Thread(target=self._measure, name="agent-profile", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for one that is being taken, for a while."""
        if self._thread is not None:
            self._thread.join(timeout=_MAX_S)

    def _measure(self) -> None:
        from edgeexit.runtime import profile_bundle  # noqa: PLC0415 - when the calibrator asks

        try:
            profile = profile_bundle(self._bundle, policy=self._policy(), seconds=_SECONDS)
            self._publish(profile.without_raw())
            _log.info("profile taken: %s ms to each exit", ", ".join(f"{ms:.3f}" for ms in profile.cumulative_ms))
        except Exception as error:  # noqa: BLE001 - a measurement that fails changes nothing
            _log.warning("no profile: %s", one_line(f"{type(error).__name__}: {error}"))
