"""Measures a latency profile in a separate thread when a command requests it."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from edgeexit.bundle import Bundle
from edgeexit.latency import LatencyProfile
from edgeexit.log_text import one_line
from edgeexit.policies import Policy

_log = logging.getLogger(__name__)

_MEASURE_S: Final = 1.0
_MAX_WAIT_S: Final = 10.0


class ProfileOnCommand:
    """Profiles a bundle on this machine; runs one measurement at a time.

    Args:
        bundle: the bundle to measure.
        policy: returns the active policy.
        publish: receives the profile without its raw samples, which are too large for a message.

    """

    def __init__(
        self, bundle: Bundle, *, policy: Callable[[], Policy], publish: Callable[[LatencyProfile], None]
    ) -> None:
        self._bundle = bundle
        self._policy = policy
        self._publish = publish
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start a measurement, unless one is running."""
        if self._thread is not None and self._thread.is_alive():
            _log.info("a profile is being measured already; ignoring the command")
            return
        self._thread = threading.Thread(target=self._measure, name="agent-profile", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait up to 10 s for a running measurement."""
        if self._thread is not None:
            self._thread.join(timeout=_MAX_WAIT_S)

    def _measure(self) -> None:
        from edgeexit.runtime import profile_bundle  # noqa: PLC0415 - imported only when it is needed

        try:
            profile = profile_bundle(self._bundle, policy=self._policy(), seconds=_MEASURE_S)
            self._publish(profile.without_raw())
            _log.info(
                "measured a latency profile: %s ms from the input to each exit",
                ", ".join(f"{ms:.3f}" for ms in profile.cumulative_ms),
            )
            if profile.invalid:
                _log.warning("the latency profile is invalid: %s", one_line("; ".join(profile.invalid)))
        except Exception as error:  # noqa: BLE001 - a failed measurement must not affect the agent
            _log.warning("the latency profile could not be measured: %s", one_line(f"{type(error).__name__}: {error}"))
