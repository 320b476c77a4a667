"""File names in a bundle folder, and the largest sizes of those that the manifest does not list."""

from typing import Final

MANIFEST: Final = "manifest.json"
POLICY: Final = "policy.json"
PROFILE: Final = "profile.json"
SIGNATURE: Final = "signature.json"
PROFILE_SIGNATURE: Final = "profile.sig"
GOLDEN: Final = "golden.npz"

_MIB: Final = 1 << 20
MAX_BYTES: Final = {
    MANIFEST: 16 * _MIB,
    POLICY: 64 * _MIB,
    PROFILE: 16 * _MIB,
    SIGNATURE: 64 << 10,
    PROFILE_SIGNATURE: 64 << 10,
}
"""File name -> its maximum size; a larger file is refused before it is read."""
MAX_GOLDEN_BYTES: Final = 1024 * _MIB
MAX_GRAPH_BYTES: Final = 2048 * _MIB
"""The limit of protobuf."""
