"""What a check works with: the calibrator, the proxy, and the intervals of the client under test."""

import time
from collections.abc import Callable
from functools import cached_property
from typing import Final, NamedTuple

from broker_client import Broker
from calibrator import Calibrator, T
from proxy import Proxy

from edgeexit.wire import Report, State


class FailedError(Exception):
    """The client does not do what the protocol demands."""


class SkippedError(Exception):
    """The check does not apply to this client, or cannot be made at this broker."""


class Bench:
    """The test bench around one client.

    Args:
        calibrator: the connection to the broker.
        proxy: the connection of the client.
        broker: host and port of the broker.
        report_interval_s: seconds between the client's reports.
        resend_s: seconds after which the client sends an unacknowledged message again.

    """

    def __init__(
        self,
        calibrator: Calibrator,
        proxy: Proxy,
        *,
        broker: Broker,
        report_interval_s: float,
        resend_s: float,
    ) -> None:
        self.calibrator: Final = calibrator
        self.proxy: Final = proxy
        self.broker: Final = broker
        self.report_interval_s: Final = report_interval_s
        self.resend_s: Final = resend_s
        self.patience_s: Final = 20 + 4 * max(report_interval_s, resend_s)
        """How long a check waits for something that must happen."""
        self.quiet_s: Final = 0.5 + 3 * resend_s
        """How long a check waits for something that must not happen."""

    @cached_property
    def exits(self) -> int:
        """Number of exits of the client's bundle, as its next report shows it."""
        return len(self.next_report().exits)

    def wait(self, condition: Callable[[], T | None], what: str, timeout_s: float | None = None) -> T:
        """Return what `condition` returns, as soon as it returns something; raise FailedError after the timeout."""
        patience_s = timeout_s or self.patience_s
        found = self.calibrator.wait(condition, patience_s)
        if found is None:
            raise FailedError(f"{what} did not happen within {patience_s:.0f} s")
        return found

    def wait_state(self, condition: Callable[[State], bool], what: str, timeout_s: float | None = None) -> State:
        """Return the newest state as soon as it fulfils the condition."""

        def current() -> State | None:
            state = self.calibrator.state
            return state if state is not None and condition(state) else None

        return self.wait(current, what, timeout_s)

    def next_report(self, what: str = "a report") -> Report:
        """Return the next report that arrives."""
        index = len(self.calibrator.seen)
        return self.wait(lambda: self.calibrator.since(index, Report), what)[-1]

    def copies(self, start: str, sequence: int, index: int = 0) -> list[bytes]:
        """Return the payloads of all copies of a message that arrived after the first `index` messages."""
        return [
            seen.payload
            for seen in self.calibrator.seen[index:]
            if getattr(seen.message, "start", None) == start and getattr(seen.message, "sequence", None) == sequence
        ]

    def pause(self) -> None:
        """Wait for something that must not happen."""
        time.sleep(self.quiet_s)


class Check(NamedTuple):
    """One check of the conformance test."""

    group: str
    """Part of the protocol: `link`, `delivery`, `downlink`, `policy`, `rejection` or `keys`."""
    name: str
    core: bool
    """False: only for clients that implement more than the core; see `--core`."""
    about: str
    run: Callable[[Bench], str | None]
    """Returns a remark for the table, or None; raises FailedError or SkippedError."""


CHECKS: Final[dict[str, Check]] = {}
"""Name -> check; `__main__` knows their order."""


def check(
    group: str, name: str, about: str, *, core: bool = True
) -> Callable[[Callable[[Bench], str | None]], Callable[[Bench], str | None]]:
    """Register a check; `about` says what the client must do."""

    def register(run: Callable[[Bench], str | None]) -> Callable[[Bench], str | None]:
        CHECKS[name] = Check(group, name, core, about, run)
        return run

    return register
