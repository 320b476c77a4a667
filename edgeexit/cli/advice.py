"""What several commands tell a user to do next."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeexit.manifest import Manifest


def how_to_get_a_policy(bundle: Path, manifest: "Manifest") -> str:
    """Return what gives a bundle its policy: `fit` counts whole answers, which maps are not."""
    if manifest.task == "segment":
        return "Bundle.write_policy in Python gives it one (`edgeexit fit` takes no maps)"
    return f"edgeexit fit {bundle} --data HELDOUT.npz"
