"""What a board tells of itself while it is measured: temperature, power, clocks, and whether it is throttled."""

from edgeexit.telemetry.probes import Probe, find_probe
from edgeexit.telemetry.reading import Reading, Spread, Telemetry
from edgeexit.telemetry.sampler import Sampler, energy_mj

__all__ = ["Probe", "Reading", "Sampler", "Spread", "Telemetry", "energy_mj", "find_probe"]
