"""Reads a board's sensors during a measurement: temperature, power, clocks, fans, and throttling."""

from edgeexit.telemetry.load import LoadMeter, MachineLoad
from edgeexit.telemetry.probes import Probe, find_probe
from edgeexit.telemetry.reading import Reading, SensorRange, Telemetry
from edgeexit.telemetry.sampler import Sampler, energy_mj

__all__ = [
    "LoadMeter",
    "MachineLoad",
    "Probe",
    "Reading",
    "Sampler",
    "SensorRange",
    "Telemetry",
    "energy_mj",
    "find_probe",
]
