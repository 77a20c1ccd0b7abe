"""Activation checkpointing: what of a block is run again in its B instead of being kept."""

from enum import StrEnum


class Recompute(StrEnum):
    """What of a block is run again in its B (activation checkpointing).

    `none`: nothing; `selective`: all but matrix products and attention; `full`: the whole block.
    """

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"
