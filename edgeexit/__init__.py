"""EdgeExit: compile, run, profile and recalibrate early-exit networks on edge devices."""

__version__ = "0.1.0"
