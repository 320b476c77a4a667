"""Loads the simulations of scripts/bench, under which the risk of any thresholds is known exactly."""

import importlib
import sys
from pathlib import Path

_BENCH = str(Path(__file__).parents[3] / "scripts" / "bench")


def load(name):
    """Return a module of scripts/bench."""
    sys.path.insert(0, _BENCH)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(_BENCH)
