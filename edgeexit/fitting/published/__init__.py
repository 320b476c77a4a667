"""Recipes for thresholds as papers publish them: rivals to compare with, and the source of BEEM's two rules.

They read the evidence as it is, take observed scores as thresholds, and optimise no more than their papers do.
"""

from edgeexit.fitting.published.beem import beem_policy, beem_rule
from edgeexit.fitting.published.branchynet import branchynet_policy
from edgeexit.fitting.published.cats import cats_rule
from edgeexit.fitting.published.eenet import eenet_policy
from edgeexit.fitting.published.msdnet import msdnet_policy
from edgeexit.fitting.published.pabee import pabee_policy
from edgeexit.fitting.published.pcee import pcee_rule

__all__ = [
    "beem_policy",
    "beem_rule",
    "branchynet_policy",
    "cats_rule",
    "eenet_policy",
    "msdnet_policy",
    "pabee_policy",
    "pcee_rule",
]
