"""Registers the dummy backend; a device of the tests imports this module whenever its Python starts."""

from edgeexit.backends.registry import register_backend
from tests.backends.dummy.traits import DUMMY

register_backend(DUMMY)
