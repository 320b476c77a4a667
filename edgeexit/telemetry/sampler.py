"""Reads a board's sensors about once per second in a separate thread, and summarises the readings."""

import itertools
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from edgeexit.telemetry.probes import Probe
from edgeexit.telemetry.reading import Reading, SensorRange, Telemetry

INTERVAL_S: Final = 1.0
_MAX_READINGS: Final = 4096


class Sampler:
    """Reads a probe at the start, every `interval_s` and at the end. A context manager.

    Readings run in a separate thread, except the first and the last one. Above 4096 readings, which take more than an
    hour, every second reading is dropped and the interval is doubled.

    Args:
        probe: reads the sensors.
        interval_s: time between two readings.

    """

    def __init__(self, probe: Probe, *, interval_s: float = INTERVAL_S) -> None:
        self._probe = probe
        self._interval_s = interval_s
        self._readings: list[Reading] = []
        self._taken = 0
        self._spent_s = 0.0
        self._throttled: bool | None = None
        self._reasons: dict[str, None] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> "Sampler":
        """Take the first reading, and start the thread."""
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the thread, and take the last reading unless the block raised an error."""
        self._stop.set()
        self._thread.join()
        if error is None:
            self._take()

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The readings so far, in order."""
        return tuple(self._readings)

    def summary(self) -> Telemetry:
        """Return the summary. Call it after the `with` block."""
        return summarise_readings(
            self._readings,
            probe=self._probe.name,
            total_rail=self._probe.total_rail,
            taken=self._taken,
            reading_ms=1e3 * self._spent_s / max(self._taken, 1),
            throttled=self._throttled,
            reasons=tuple(self._reasons),
        )

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._take()

    def _take(self) -> None:
        started = time.perf_counter()
        reading = self._probe.read()
        self._spent_s += time.perf_counter() - started
        self._taken += 1
        self._readings.append(reading)
        if reading.throttled is not None:
            self._throttled = bool(self._throttled) or reading.throttled
        self._reasons |= dict.fromkeys(reading.reasons)
        if len(self._readings) > _MAX_READINGS:
            self._readings = self._readings[::2]
            self._interval_s *= 2


def summarise_readings(
    readings: Sequence[Reading],
    *,
    probe: str,
    total_rail: str | None,
    taken: int,
    reading_ms: float,
    throttled: bool | None,
    reasons: tuple[str, ...],
) -> Telemetry:
    """Return the summary of at least one reading: range of every sensor, energy, and throttling."""
    return Telemetry(
        probe=probe,
        readings=taken,
        seconds=round(readings[-1].monotonic_s - readings[0].monotonic_s, 3),
        reading_ms=round(reading_ms, 3),
        temperatures_c=_ranges([reading.temperatures_c for reading in readings]),
        power_mw=_ranges([reading.power_mw for reading in readings]),
        total_rail=total_rail,
        energy_mj=energy_mj(readings),
        clocks_mhz=_ranges([reading.clocks_mhz for reading in readings]),
        fans_rpm=_ranges([reading.fans_rpm for reading in readings]),
        throttled=throttled,
        reasons=reasons,
    )


def energy_mj(readings: Sequence[Reading]) -> float | None:
    """Return the energy of the whole board from the first reading to the last in mJ, by the trapezoidal rule.

    Return None if fewer than two readings have the power of the whole board.
    """
    known = [(reading.monotonic_s, reading.total_mw) for reading in readings if reading.total_mw is not None]
    if len(known) < 2:  # noqa: PLR2004 - an interval has two ends
        return None
    total = sum((mw + next_mw) / 2 * (next_s - s) for (s, mw), (next_s, next_mw) in itertools.pairwise(known))
    return round(total, 3)


def _ranges(tables: Sequence[dict[str, float | None]]) -> dict[str, SensorRange | None]:
    found: dict[str, SensorRange | None] = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        values = [value for table in tables if (value := table.get(name)) is not None]
        found[name] = (
            SensorRange(min=min(values), mean=round(sum(values) / len(values), 3), max=max(values)) if values else None
        )
    return found
