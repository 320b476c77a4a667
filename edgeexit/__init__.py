"""EdgeExit: compile, run, profile and recalibrate early-exit networks on edge devices."""

import logging

__version__ = "0.1.0"

# A library says nothing by itself: the application, or a command that serves, decides where its log goes.
logging.getLogger(__name__).addHandler(logging.NullHandler())
