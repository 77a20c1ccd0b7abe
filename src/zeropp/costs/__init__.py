"""Floor 1: how long actions take, what they need, and the makespan that nothing can beat."""

from zeropp.costs.analytic import Efficiency, Hardware, analytic_profile
from zeropp.costs.costs import Costs
from zeropp.costs.floor import floor
from zeropp.costs.hardware import GPUS
from zeropp.costs.link import Group, Link
from zeropp.costs.machine import Bytes, PerStage, Traffic, at_stage
from zeropp.costs.profile import Block, Device, Precision, Profile, Setting
from zeropp.costs.profile_file import read_profile, write_profile
from zeropp.costs.recompute import Recompute

__all__ = [
    "GPUS",
    "Block",
    "Bytes",
    "Costs",
    "Device",
    "Efficiency",
    "Group",
    "Hardware",
    "Link",
    "PerStage",
    "Precision",
    "Profile",
    "Recompute",
    "Setting",
    "Traffic",
    "analytic_profile",
    "at_stage",
    "floor",
    "read_profile",
    "write_profile",
]
