"""Limits what one device may send, so that a hostile or broken device neither fills the database nor displaces others.

Everything here is in memory: after a restart of the service, each device has its full quota again.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Final, TypeVar

import msgspec

from edgeexit.latency import LatencyProfile
from edgeexit.wire import Audit, DeviceAddress, Report, State

_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0
_DAY_S: Final = 86400.0
_MAX_KNOWN: Final = 256
"""Cohorts, and series of reports, that are remembered per device; one that was forgotten counts as new."""

_Key = TypeVar("_Key")
_Limit = Annotated[int, msgspec.Meta(ge=1)]


class Quotas(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much each device may send. The defaults let a device catch up after days without a connection."""

    messages_per_minute: _Limit = 600
    message_burst: _Limit = 10_000
    """Messages that a device may send at once after a quiet time."""
    audits_per_hour: _Limit = 100_000
    """Audited samples; a message contains up to 256."""
    audit_burst: _Limit = 1_000_000
    """Audited samples that a device may send at once after a quiet time."""
    new_cohorts_per_day: _Limit = 16
    """Cohorts (of a bundle) that a device has not named before."""
    new_series_per_day: _Limit = 2_000
    """Series of reports; a device starts a series with each start and with each revision."""
    profile_bytes: _Limit = 64 * 1024
    """Maximum size of a latency profile."""
    profiles: _Limit = 8
    """Latency profiles that are stored per device; a further one replaces the oldest."""
    max_devices: _Limit = 10_000
    """Devices in a fleet; messages of further ones are not stored."""
    max_unregistered_cohorts: _Limit = 1_000
    """Cohorts in a fleet that devices name and nobody has registered."""


class TokenBucket:
    """Permits `capacity` events at once and `capacity_per_s` on average.

    Args:
        capacity: maximum number of events at once.
        rate_per_s: events per second after that.
        now_s: monotonic seconds.

    """

    __slots__ = ("_capacity", "_rate_per_s", "_since_s", "_tokens")

    def __init__(self, capacity: float, rate_per_s: float, now_s: float) -> None:
        self._capacity = capacity
        self._rate_per_s = rate_per_s
        self._tokens = capacity
        self._since_s = now_s

    def take(self, now_s: float, count: int = 1) -> bool:
        """Return True, and count the events, if they are permitted."""
        self._tokens = min(self._capacity, self._tokens + (now_s - self._since_s) * self._rate_per_s)
        self._since_s = now_s
        if self._tokens < count:
            return False
        self._tokens -= count
        return True


class _Usage:
    """What one device has sent."""

    __slots__ = ("audits", "cohorts", "messages", "new_cohorts", "new_series", "series")

    def __init__(self, quotas: Quotas, now_s: float) -> None:
        self.messages = TokenBucket(quotas.message_burst, quotas.messages_per_minute / _MINUTE_S, now_s)
        self.audits = TokenBucket(quotas.audit_burst, quotas.audits_per_hour / _HOUR_S, now_s)
        self.new_cohorts = TokenBucket(quotas.new_cohorts_per_day, quotas.new_cohorts_per_day / _DAY_S, now_s)
        self.new_series = TokenBucket(quotas.new_series_per_day, quotas.new_series_per_day / _DAY_S, now_s)
        self.cohorts: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.series: OrderedDict[tuple[str, int], None] = OrderedDict()


class QuotaCheck:
    """Counts the messages of every device against the quotas. Only one thread may use it.

    Args:
        quotas: the limits.
        clock: returns monotonic seconds.

    """

    def __init__(self, quotas: Quotas, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas = quotas
        self._clock = clock
        self._devices: OrderedDict[DeviceAddress, _Usage] = OrderedDict()

    def admits_message(self, address: DeviceAddress) -> str | None:
        """Count a message before it is decoded; return None, or which quota is exceeded."""
        if self._usage(address).messages.take(self._clock()):
            return None
        return f"more than {self._quotas.messages_per_minute} messages a minute"

    def admits(self, address: DeviceAddress, message: State | Report | Audit | LatencyProfile, size: int) -> str | None:
        """Count what a decoded message of `size` bytes adds; return None, or which quota is exceeded."""
        quotas, usage, now_s = self._quotas, self._usage(address), self._clock()
        if isinstance(message, LatencyProfile):
            return None if size <= quotas.profile_bytes else f"a profile of more than {quotas.profile_bytes} bytes"
        if not _is_known(usage.cohorts, (message.bundle, message.cohort), usage.new_cohorts, now_s):
            return f"more than {quotas.new_cohorts_per_day} new cohorts a day"
        if isinstance(message, Audit) and not usage.audits.take(now_s, len(message.samples)):
            return f"more than {quotas.audits_per_hour} audits an hour"
        if isinstance(message, Report) and not _is_known(
            usage.series, (message.start, message.revision), usage.new_series, now_s
        ):
            return f"more than {quotas.new_series_per_day} starts and revisions a day"
        return None

    def _usage(self, address: DeviceAddress) -> _Usage:
        usage = self._devices.get(address)
        if usage is None:
            usage = self._devices[address] = _Usage(self._quotas, self._clock())
            if len(self._devices) > 2 * self._quotas.max_devices:
                self._devices.popitem(last=False)
        else:
            self._devices.move_to_end(address)
        return usage


def _is_known(known: OrderedDict[_Key, None], key: _Key, new: TokenBucket, now_s: float) -> bool:
    """Return True if a device has used a key before, or may use a new one."""
    if key in known:
        known.move_to_end(key)
        return True
    if not new.take(now_s):
        return False
    known[key] = None
    if len(known) > _MAX_KNOWN:
        known.popitem(last=False)
    return True
