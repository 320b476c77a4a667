"""Reading a board about once a second in a thread of its own, and summing up what it told."""

import itertools
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from edgeexit.telemetry.probes import Probe
from edgeexit.telemetry.reading import Reading, Spread, Telemetry

INTERVAL_S: Final = 1.0
_MAX_KEPT: Final = 4096


class Sampler:
    """Reads a probe at its start, every `interval_s` and at its end; a context manager.

    Readings run in a thread of its own, never in the one that is measured. Of a run that lasts over an hour, every
    second reading is let go again whenever there are too many.
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
        """Take the first reading, and begin."""
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End, with a last reading where nothing went wrong."""
        self._stop.set()
        self._thread.join()
        if error is None:
            self._take()

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Those kept so far, in order."""
        return tuple(self._readings)

    def summary(self) -> Telemetry:
        """Sum up; to be called once the sampler has ended."""
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
        if len(self._readings) > _MAX_KEPT:
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
    """Return lowest, mean and highest of every sensor over at least one reading, and the energy used."""
    return Telemetry(
        probe=probe,
        readings=taken,
        seconds=round(readings[-1].monotonic_s - readings[0].monotonic_s, 3),
        reading_ms=round(reading_ms, 3),
        temperatures_c=_spreads([reading.temperatures_c for reading in readings]),
        power_mw=_spreads([reading.power_mw for reading in readings]),
        total_rail=total_rail,
        energy_mj=energy_mj(readings),
        clocks_mhz=_spreads([reading.clocks_mhz for reading in readings]),
        fans_rpm=_spreads([reading.fans_rpm for reading in readings]),
        throttled=throttled,
        reasons=reasons,
    )


def energy_mj(readings: Sequence[Reading]) -> float | None:
    """Return the board's energy from the first reading to the last in mJ, by the trapezoidal rule.

    None with fewer than two readings of the whole board's power: mW times seconds.
    """
    known = [(reading.monotonic_s, reading.total_mw) for reading in readings if reading.total_mw is not None]
    if len(known) < 2:  # noqa: PLR2004 - a span needs two ends
        return None
    spans = itertools.pairwise(known)
    return round(sum((power + before) / 2 * (at - then) for (then, before), (at, power) in spans), 3)


def _spreads(tables: Sequence[dict[str, float | None]]) -> dict[str, Spread | None]:
    found: dict[str, Spread | None] = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        values = [value for table in tables if (value := table.get(name)) is not None]
        found[name] = (
            Spread(low=min(values), mean=round(sum(values) / len(values), 3), high=max(values)) if values else None
        )
    return found
