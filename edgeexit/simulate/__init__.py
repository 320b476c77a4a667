"""Simulates a fleet: many devices with the real protocol and the real readouts of a bundle, to test a set-up."""

from edgeexit.simulate.comparison import Difference
from edgeexit.simulate.gateway import BrokerAccess
from edgeexit.simulate.model import SimulatedModel, assumed_latency_ms
from edgeexit.simulate.options import FleetEvents, InputDrift, SimulationOptions, parse_drift, parse_duration
from edgeexit.simulate.outcome import DatabaseBalance, SimulationOutcome
from edgeexit.simulate.run import simulate_fleet

__all__ = [
    "BrokerAccess",
    "DatabaseBalance",
    "Difference",
    "FleetEvents",
    "InputDrift",
    "SimulatedModel",
    "SimulationOptions",
    "SimulationOutcome",
    "assumed_latency_ms",
    "parse_drift",
    "parse_duration",
    "simulate_fleet",
]
