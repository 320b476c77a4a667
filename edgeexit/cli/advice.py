"""What several commands tell a user to do next."""

from pathlib import Path


def how_to_get_a_policy(bundle: Path) -> str:
    """Return what gives a bundle its policy."""
    return f"edgeexit fit {bundle} --data HELDOUT.npz"
