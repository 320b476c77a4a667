"""Keys and certificates of a trial fleet: a certificate authority, mutual TLS, signing keys, and files for a broker."""

from edgeexit.pki.authority_folder import AuthorityFolder
from edgeexit.pki.fleet_folder import FleetPlan, create_fleet
from edgeexit.pki.issued import IssuedCertificate

__all__ = ["AuthorityFolder", "FleetPlan", "IssuedCertificate", "create_fleet"]
