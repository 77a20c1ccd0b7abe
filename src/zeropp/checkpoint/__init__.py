"""Checkpoints through torch.distributed.checkpoint, under global parameter names.

Names do not depend on ranks or stages, so a checkpoint can be read in another layout; a tied
parameter is held once, with its optimizer's state and its group's numbers under its name.
"""

from zeropp.checkpoint.files import HEADER, Header, newest, read
from zeropp.checkpoint.folder import Keep, restore, set_aside_after
from zeropp.checkpoint.owner import owned
from zeropp.checkpoint.saver import Saved, Saver
from zeropp.checkpoint.state import check, load, save, stored

__all__ = [
    "HEADER",
    "Header",
    "Keep",
    "Saved",
    "Saver",
    "check",
    "load",
    "newest",
    "owned",
    "read",
    "restore",
    "save",
    "set_aside_after",
    "stored",
]
