"""The kinds of policies that can be fitted, by name."""

from collections.abc import Mapping
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Final

from edgeexit.errors import FittingError
from edgeexit.fitting.kinds.kind import FittingKind
from edgeexit.policies import KINDS
from edgeexit.policies.registry import unknown_kind

_FITTING_KINDS: Final = (
    "edgeexit.fitting.kinds.confidence:KIND",
    "edgeexit.fitting.kinds.entropy:KIND",
    "edgeexit.fitting.kinds.margin:KIND",
    "edgeexit.fitting.kinds.patience:KIND",
    "edgeexit.fitting.kinds.voting:KIND",
    "edgeexit.fitting.kinds.beem:KIND",
    "edgeexit.fitting.kinds.pcee:KIND",
    "edgeexit.fitting.kinds.cats:KIND",
    "edgeexit.fitting.kinds.ztw:KIND",
    "edgeexit.fitting.kinds.eenet.kind:KIND",
)
"""One line per kind, the simplest first: `choose_policy` prefers the earlier of two kinds that do equally well."""

_kinds: dict[str, FittingKind] = {}

FITTING_KINDS: Final[Mapping[str, FittingKind]] = MappingProxyType(_kinds)
"""Name -> kind, the simplest first. `register_fitting_kind` adds to it."""


def register_fitting_kind(kind: FittingKind) -> None:
    """Add a kind. `fit_policy`, `choose_policy`, the command line and reports offer it from then on.

    Raises ValueError if its policy is not registered (`edgeexit.policies.register_policy`), or if the name is taken.
    """
    if KINDS.get(kind.name) is not kind.policy:
        raise ValueError(f"policy kind '{kind.name}' is not registered; call register_policy({kind.policy.__name__})")
    if _kinds.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"fitting kind '{kind.name}' is registered already; register each kind once")


def require_fitting_kind(name: str) -> FittingKind:
    """Return a kind by name. Raises FittingError if the name is unknown, or if no fitting kind is registered for it."""
    if name not in _kinds:
        unfitted = f"policy kind '{name}' has no fitting kind; call register_fitting_kind to fit it"
        raise FittingError(unfitted if name in KINDS else unknown_kind(name))
    return _kinds[name]


for _location in _FITTING_KINDS:
    register_fitting_kind(resolve_name(_location))
