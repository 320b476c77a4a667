"""The bundle: the folder that ships to a device."""

from edgeexit.bundle.bundle import (
    GOLDEN,
    MANIFEST,
    POLICY,
    PROFILE,
    SIGNATURE,
    Bundle,
    Costs,
    Golden,
    bundle_folder,
    write_golden,
    write_manifest,
)

__all__ = [
    "GOLDEN",
    "MANIFEST",
    "POLICY",
    "PROFILE",
    "SIGNATURE",
    "Bundle",
    "Costs",
    "Golden",
    "bundle_folder",
    "write_golden",
    "write_manifest",
]
