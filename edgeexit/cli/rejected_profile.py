"""Explains why the latencies of a profile are not used as costs, and what to do."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeexit.bundle import Costs


def rejected_profile(bundle: Path, costs: "Costs") -> str:
    """Return the reasons for which `costs` are not the latencies of the profile, with the commands that help."""
    return (
        f"the profile of '{bundle}' is not used as costs: {'; '.join(costs.rejected)}; run `edgeexit profile {bundle}` "
        "again with nothing else running, or add --force"
    )
