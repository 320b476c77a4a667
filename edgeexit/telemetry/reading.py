"""What a board tells of itself: one reading, and the summary of many. What is not known is null, never 0."""

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The board's sensors at one moment, by the names that the board gives them."""

    monotonic_s: float
    temperatures_c: dict[str, float | None] = {}
    """Thermal zone -> degrees Celsius."""
    power_mw: dict[str, float | None] = {}
    """Power rail -> milliwatts; rails may lie behind each other, so their sum means nothing."""
    total_mw: float | None = None
    """The rail that carries the whole board; null where there is none."""
    clocks_mhz: dict[str, float | None] = {}
    fans_rpm: dict[str, float | None] = {}
    throttled: bool | None = None
    """Whether the machine held itself back now or since the reading before; null: it has no way to tell."""
    reasons: tuple[str, ...] = ()
    """Why it is throttled."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A sensor over a run."""

    low: float
    mean: float
    high: float


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """What a board told over a run; a sensor that never gave a value is null."""

    probe: str
    """Which readings these are: `linux`, `jetson`, `raspberry-pi`."""
    readings: int
    seconds: float
    """From the first reading to the last."""
    reading_ms: float
    """Mean time that a reading took, in a thread of its own."""
    temperatures_c: dict[str, Spread | None] = {}
    power_mw: dict[str, Spread | None] = {}
    total_rail: str | None = None
    """Name of the rail that carries the whole board."""
    energy_mj: float | None = None
    """Of the whole board from the first reading to the last, by the trapezoidal rule."""
    clocks_mhz: dict[str, Spread | None] = {}
    fans_rpm: dict[str, Spread | None] = {}
    throttled: bool | None = None
    reasons: tuple[str, ...] = ()
    """All reasons told, each once."""
