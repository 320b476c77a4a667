"""Limits what one device may send, so that a hostile or broken device neither fills the database nor displaces others.

Everything here is in memory: after a restart of the service, or when another process takes over its shard, a device has
its full quota again. That is intended: no device can cause a restart, and a write per message would cost more than what
it bounds. The limits of the fleet (devices, cohorts) are counted in the database, so they survive.
"""

import time
from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from edgeexit.latency import LatencyProfile
from edgeexit.wire import Audit, DeviceAddress, State
from edgeexit_calibration.ingest.report_head import ReportHead

_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0
_DAY_S: Final = 86400.0
_MAX_KNOWN: Final = 16
"""Cohorts, and series of reports, that are remembered per device; one that was forgotten counts as new."""
_ROUNDING: Final = 1 + 1e-9

_Limit = Annotated[int, msgspec.Meta(ge=1)]


class Quotas(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much each device may send. The defaults let a device catch up after days without a connection."""

    messages_per_minute: _Limit = 600
    message_burst: _Limit = 10_000
    """Messages that a device may send at once after a quiet time."""
    bytes_per_day: _Limit = 512 * 1024 * 1024
    byte_burst: _Limit = 256 * 1024 * 1024
    """Bytes that a device may send at once after a quiet time; far more than the outbox of an agent holds."""
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
    max_devices: _Limit = 100_000
    """Devices in a fleet; messages of further ones are not stored."""
    max_unregistered_cohorts: _Limit = 1_000
    """Cohorts in a fleet that devices name and nobody has registered."""


class RateLimit:
    """Permits `burst` units at once and `per_s` units per second on average.

    Instead of a number of tokens and a time, each sender has one number: the time at which all that it has sent would
    be paid for at the average rate (the generic cell rate algorithm of ITU-T I.371).

    Args:
        burst: maximum number of units at once.
        per_s: units per second after that.

    """

    __slots__ = ("_limit_s", "_unit_s")

    def __init__(self, burst: float, per_s: float) -> None:
        self._unit_s = 1 / per_s
        self._limit_s = burst * self._unit_s * _ROUNDING

    def paid_at(self, before_s: float, now_s: float, count: int = 1) -> float | None:
        """Return the sender's new number after it has sent `count` units, or None if it must not.

        Args:
            before_s: its number before; 0.0 for a new sender.
            now_s: the time now.
            count: units that it sends.

        """
        after_s = (max(now_s, before_s)) + count * self._unit_s
        return after_s if after_s - now_s <= self._limit_s else None


class _Usage:
    """What one device has sent: the number of each `RateLimit`, and what it has named."""

    __slots__ = ("audits_s", "bytes_s", "cohorts", "messages_s", "new_cohorts_s", "new_series_s", "series")

    def __init__(self) -> None:
        self.messages_s = self.bytes_s = self.audits_s = self.new_cohorts_s = self.new_series_s = 0.0
        self.cohorts: list[int] = []
        self.series: list[int] = []
        """Hashes of the newest cohorts and series, the newest last: no device can find two with the same one."""


class QuotaCheck:
    """Counts the messages of every device against the quotas. Only one thread may use it.

    It remembers at most twice `max_devices` devices, and forgets those that have sent nothing for the longest time.

    Args:
        quotas: the limits.
        clock: returns monotonic seconds.

    """

    def __init__(self, quotas: Quotas, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas = quotas
        self._clock = clock
        self._messages = RateLimit(quotas.message_burst, quotas.messages_per_minute / _MINUTE_S)
        self._bytes = RateLimit(quotas.byte_burst, quotas.bytes_per_day / _DAY_S)
        self._audits = RateLimit(quotas.audit_burst, quotas.audits_per_hour / _HOUR_S)
        self._new_cohorts = RateLimit(quotas.new_cohorts_per_day, quotas.new_cohorts_per_day / _DAY_S)
        self._new_series = RateLimit(quotas.new_series_per_day, quotas.new_series_per_day / _DAY_S)
        self._devices: dict[DeviceAddress, _Usage] = {}
        self._earlier: dict[DeviceAddress, _Usage] = {}
        """Devices that were used before `_devices` was full; one that sends again moves there."""

    def admits_message(self, address: DeviceAddress, size: int) -> str | None:
        """Count a message of `size` bytes before it is decoded; return None, or which quota is exceeded."""
        usage, now_s = self._devices.get(address) or self._add(address), self._clock()
        messages_s = self._messages.paid_at(usage.messages_s, now_s)
        if messages_s is None:
            return f"more than {self._quotas.messages_per_minute} messages a minute"
        usage.messages_s = messages_s
        bytes_s = self._bytes.paid_at(usage.bytes_s, now_s, size)
        if bytes_s is None:
            return f"more than {self._quotas.bytes_per_day} bytes a day"
        usage.bytes_s = bytes_s
        return None

    def admits(
        self, address: DeviceAddress, message: State | ReportHead | Audit | LatencyProfile, size: int
    ) -> str | None:
        """Count what a decoded message of `size` bytes adds; return None, or which quota is exceeded."""
        quotas, usage = self._quotas, self._devices.get(address) or self._add(address)
        if isinstance(message, LatencyProfile):
            return None if size <= quotas.profile_bytes else f"a profile of more than {quotas.profile_bytes} bytes"
        cohort = hash((message.bundle, message.cohort))
        if not _is_known(usage.cohorts, cohort):
            new_s = self._new_cohorts.paid_at(usage.new_cohorts_s, self._clock())
            if new_s is None:
                return f"more than {quotas.new_cohorts_per_day} new cohorts a day"
            usage.new_cohorts_s = new_s
            _remember(usage.cohorts, cohort)
        if isinstance(message, ReportHead):
            series = hash((message.start, message.revision))
            if not _is_known(usage.series, series):
                new_s = self._new_series.paid_at(usage.new_series_s, self._clock())
                if new_s is None:
                    return f"more than {quotas.new_series_per_day} starts and revisions a day"
                usage.new_series_s = new_s
                _remember(usage.series, series)
        elif isinstance(message, Audit):
            audits_s = self._audits.paid_at(usage.audits_s, self._clock(), len(message.samples))
            if audits_s is None:
                return f"more than {quotas.audits_per_hour} audits an hour"
            usage.audits_s = audits_s
        return None

    def _add(self, address: DeviceAddress) -> _Usage:
        if len(self._devices) >= self._quotas.max_devices:
            self._devices, self._earlier = {}, self._devices
        usage = self._earlier.pop(address) if address in self._earlier else _Usage()
        self._devices[address] = usage
        return usage


def _is_known(known: list[int], key: int) -> bool:
    """Return True if a device has used a key before, which is then the newest one."""
    if known and known[-1] == key:
        return True
    if key not in known:
        return False
    known.remove(key)
    known.append(key)
    return True


def _remember(known: list[int], key: int) -> None:
    known.append(key)
    if len(known) > _MAX_KNOWN:
        del known[0]
