"""Sensor data of a board: one reading, and the summary of many. An unknown value is null, never 0."""

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a board's sensors at one moment, under the names that the board gives them."""

    monotonic_s: float
    """Time of the reading in seconds of `time.monotonic`; in a profile, since the start of the first phase."""
    temperatures_c: dict[str, float | None] = {}
    """Thermal zone -> degrees Celsius."""
    power_mw: dict[str, float | None] = {}
    """Power rail -> milliwatts. One rail may supply another, so their sum has no meaning."""
    total_mw: float | None = None
    """Power of the rail that measures the whole board; null if there is none."""
    clocks_mhz: dict[str, float | None] = {}
    fans_rpm: dict[str, float | None] = {}
    throttled: bool | None = None
    """Whether the machine is throttled, or was since the previous reading; null if it cannot be determined."""
    reasons: tuple[str, ...] = ()
    """Reasons for the throttling."""


class SensorRange(msgspec.Struct, frozen=True, kw_only=True):
    """Minimum, mean and maximum of a sensor over a run."""

    min: float
    mean: float
    max: float


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of the readings of a run. A sensor that never gave a value is null."""

    probe: str
    """Name of the probe: `linux`, `jetson` or `raspberry-pi`."""
    readings: int
    seconds: float
    """Time from the first reading to the last."""
    reading_ms: float
    """Mean duration of a reading. Readings run in a separate thread."""
    temperatures_c: dict[str, SensorRange | None] = {}
    power_mw: dict[str, SensorRange | None] = {}
    total_rail: str | None = None
    """Name of the rail that measures the whole board."""
    energy_mj: float | None = None
    """Energy of the whole board from the first reading to the last, by the trapezoidal rule."""
    clocks_mhz: dict[str, SensorRange | None] = {}
    fans_rpm: dict[str, SensorRange | None] = {}
    throttled: bool | None = None
    reasons: tuple[str, ...] = ()
    """All reasons in the readings, each once."""
