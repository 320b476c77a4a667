"""File names in a bundle folder."""

from typing import Final

MANIFEST: Final = "manifest.json"
POLICY: Final = "policy.json"
PROFILE: Final = "profile.json"
SIGNATURE: Final = "signature.json"
GOLDEN: Final = "golden.npz"
