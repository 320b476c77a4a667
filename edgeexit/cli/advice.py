"""Next steps that several commands recommend."""

from pathlib import Path


def how_to_get_a_policy(bundle: Path) -> str:
    """Return the command that fits a policy for a bundle."""
    return f"edgeexit fit {bundle} --data HELDOUT.npz"
