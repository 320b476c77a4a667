"""The bundle: the folder that is copied to a device."""

from edgeexit.bundle.bundle import Bundle, Costs
from edgeexit.bundle.golden import GoldenSamples, write_golden
from edgeexit.bundle.layout import GOLDEN, MANIFEST, POLICY, PROFILE, SIGNATURE
from edgeexit.bundle.manifest import Manifest
from edgeexit.bundle.write import bundle_folder, write_manifest

__all__ = [
    "GOLDEN",
    "MANIFEST",
    "POLICY",
    "PROFILE",
    "SIGNATURE",
    "Bundle",
    "Costs",
    "GoldenSamples",
    "Manifest",
    "bundle_folder",
    "write_golden",
    "write_manifest",
]
