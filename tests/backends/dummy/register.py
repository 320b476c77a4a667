"""Registers the dummy backend; the Python of the test device imports this module when it starts."""

from edgeexit.backends.registry import register_backend
from tests.backends.dummy.traits import DUMMY

register_backend(DUMMY)
