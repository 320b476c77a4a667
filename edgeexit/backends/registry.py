"""The registry of backends: every value that `runtime` may have in a target file. Importing it loads no runtime."""

from collections.abc import Mapping
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Final

from edgeexit.backends.traits import BackendTraits

_TRAITS: Final = (
    "edgeexit.backends.onnxruntime.traits:ONNXRUNTIME",
    "edgeexit.backends.tensorrt.traits:TENSORRT",
    "edgeexit.backends.tensorrt.traits:TENSORRT_RTX",
)
"""One line per backend: module and name of its traits."""

_registered: dict[str, BackendTraits] = {}

BACKENDS: Final[Mapping[str, BackendTraits]] = MappingProxyType(_registered)
"""`runtime` of a target -> traits of the backend. `register_backend` adds to it."""


def register_backend(traits: BackendTraits) -> None:
    """Add a backend that targets can name as their `runtime`. Raises ValueError if another one has the same name."""
    if _registered.setdefault(traits.name, traits) is not traits:
        raise ValueError(
            f"backend '{traits.name}' is registered already: {_registered[traits.name].backend}; choose another name"
        )


for _location in _TRAITS:
    register_backend(resolve_name(_location))
