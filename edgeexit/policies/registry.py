"""The kinds of policies that documents can hold, by name."""

import difflib
from collections.abc import Mapping
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Final

from edgeexit.policies.base import Policy

_POLICIES: Final = (
    "edgeexit.policies.confidence:Confidence",
    "edgeexit.policies.entropy:Entropy",
    "edgeexit.policies.margin:Margin",
    "edgeexit.policies.patience:Patience",
    "edgeexit.policies.voting:Voting",
    "edgeexit.policies.beem:Beem",
    "edgeexit.policies.pcee:Pcee",
    "edgeexit.policies.cats:Cats",
    "edgeexit.policies.ztw:Ztw",
    "edgeexit.policies.eenet:Eenet",
)
"""One line per kind, the simplest first: module and class."""

_classes: dict[str, type[Policy]] = {}

KINDS: Final[Mapping[str, type[Policy]]] = MappingProxyType(_classes)
"""Name in documents and on the command line -> class, the simplest first. `register_policy` adds to it."""


def register_policy(policy: type[Policy]) -> None:
    """Add a kind. Documents that hold it can be decoded from then on.

    `policy` is a frozen subclass of `Policy` whose `tag` is its name. Raises TypeError if it has no tag, and ValueError
    if another class has the same name.
    """
    name = policy.__struct_config__.tag
    if not isinstance(name, str):
        raise TypeError(f"{policy.__name__} has no name; declare the class with tag='name'")
    if _classes.setdefault(name, policy) is not policy:
        known = _classes[name].__name__
        raise ValueError(f"policy kind '{name}' is registered already, as {known}; choose another tag")


def unknown_kind(name: str) -> str:
    """Return the error message for a kind that is not registered; it contains the closest and all known names."""
    near = difflib.get_close_matches(name, _classes, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return f"policy kind '{name}' is unknown{hint} known kinds: {', '.join(_classes)}"


for _location in _POLICIES:
    register_policy(resolve_name(_location))
