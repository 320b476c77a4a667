"""The options of a simulation."""

import re
from typing import Annotated, Final, Literal

import msgspec

from edgeexit.errors import ConfigError
from edgeexit.policies.document import Fraction, Name

DriftKind = Literal["hard", "disagreeing"]
"""Which samples drift brings: those with the lowest scores at the first exit, or those whose prediction is not the
final exit's."""
_DRIFT_KINDS: Final = ("hard", "disagreeing")
_DRIFT: Final = re.compile(r"(?P<kind>[a-z]+)(?::(?P<fraction>[0-9.]+))?@(?P<time>[0-9.]+(?:s|m|h)?)\Z")
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)?\Z")
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_STANDBY: Final = 10
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class InputDrift(msgspec.Struct, frozen=True, kw_only=True):
    """From a moment on, a fraction of all samples is of one kind."""

    kind: DriftKind
    fraction: Fraction = 0.5
    begins_s: _Seconds
    """Seconds after the begin of the load."""


class FleetEvents(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a simulated fleet besides reports. Rates are fractions of the devices per minute."""

    drift: InputDrift | None = None
    churn: _Seconds = 0.0
    """Devices that leave, and as many others that join."""
    restarts: _Seconds = 0.0
    """Agents that start again, half of them while messages of the earlier start wait."""
    stragglers: _Seconds = 0.0
    """Devices that go offline for up to 10 s, and then send what they have counted."""
    clock_jumps: _Seconds = 0.0
    """Agents whose uptime jumps to a tiny, a huge, or another number."""
    clones: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Names that two agents use at the same time."""
    malicious: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Devices that send invalid, forged, contradictory or too many messages."""


class SimulationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Size, load and events of a simulation."""

    fleet: Name = "simulated"
    cohort: Name = "simulated"
    prefix: Name = "sim"
    """Begin of the name of every device."""
    devices: _Positive = 100
    shards: _Positive = 8
    connections: _Positive = 1
    rate: _Seconds | None = None
    """Reports per second of all devices together; 0: as fast as they are acknowledged; null: see `interval_s`."""
    interval_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """Time between two reports of a device."""
    duration_s: _Seconds | None = None
    reports: _Positive | None = None
    """Number of reports after which the load ends."""
    samples_per_report: _Positive = 10
    audit_fraction: Fraction = 0.01
    """Probability with which a sample is audited."""
    in_flight: _Positive = 10_000
    """Maximum number of messages that are not acknowledged."""
    resend_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """Time after which a message that nobody answers is sent again."""
    settle_s: _Seconds = 60.0
    """Time to wait for the last acknowledgements."""
    seed: int = 0
    events: FleetEvents = FleetEvents()

    @property
    def standby(self) -> int:
        """Number of further devices that join as others leave."""
        return max(1, self.devices // _STANDBY) if self.events.churn else 0

    @property
    def agents(self) -> int:
        """Number of agents: of the devices, of those that join, and two per clone."""
        return self.devices + self.standby + 2 * self.events.clones

    @property
    def reports_per_s(self) -> float:
        """The offered load; 0: as fast as possible."""
        return self.devices / self.interval_s if self.rate is None else self.rate


def parse_duration(option: str, text: str) -> float:
    """Return the seconds of `60`, `60s`, `5m` or `1h`. Raises ConfigError that names the option."""
    match = _DURATION.match(text)
    if match is None:
        raise ConfigError(f"{option} '{text}' is not a time; write e.g. 60s, 5m or 1h")
    return float(match[1]) * _UNITS[match[2]]


def parse_drift(text: str) -> InputDrift:
    """Return the drift that `KIND[:FRACTION]@TIME` describes. Raises ConfigError."""
    match = _DRIFT.match(text)
    if match is None or match["kind"] not in _DRIFT_KINDS:
        kinds = " or ".join(_DRIFT_KINDS)
        raise ConfigError(f"--drift '{text}' must be KIND[:FRACTION]@TIME with KIND {kinds}, e.g. disagreeing:0.5@30s")
    try:
        fraction = float(match["fraction"] or 0.5)
    except ValueError:
        fraction = -1.0
    if not 0 < fraction <= 1:
        raise ConfigError(f"--drift '{text}': the fraction must be above 0 and at most 1")
    kind: DriftKind = "hard" if match["kind"] == "hard" else "disagreeing"
    return InputDrift(kind=kind, fraction=fraction, begins_s=parse_duration("--drift", match["time"]))
