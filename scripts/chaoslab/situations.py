"""The situations by name, in the order in which they run."""

from collections.abc import Callable

from scripts.chaoslab.broker_kills import kill_brokers
from scripts.chaoslab.calibrator_disks import failing_calibrator_disk
from scripts.chaoslab.calibrator_kills import kill_calibrators
from scripts.chaoslab.cost import link_cost
from scripts.chaoslab.database_kills import kill_postgres
from scripts.chaoslab.disks import failing_disks
from scripts.chaoslab.images import flipped_bits, rolled_back, two_clones
from scripts.chaoslab.kills import kill_agents
from scripts.chaoslab.lab import Check, Lab
from scripts.chaoslab.links import bad_links
from scripts.chaoslab.nonsense import claim_nonsense
from scripts.chaoslab.packet_limit import small_packets
from scripts.chaoslab.several_processes import several_processes

SITUATIONS: dict[str, Callable[[Lab], list[Check]]] = {
    "kills": kill_agents,
    "brokers": kill_brokers,
    "calibrators": kill_calibrators,
    "postgres": kill_postgres,
    "processes": several_processes,
    "calibrator-disk": failing_calibrator_disk,
    "links": bad_links,
    "disks": failing_disks,
    "rollback": rolled_back,
    "bits": flipped_bits,
    "clones": two_clones,
    "nonsense": claim_nonsense,
    "packets": small_packets,
    "cost": link_cost,
}

ALONE = ("cost",)
"""Situations that measure time, so that no other one runs meanwhile."""
