"""Ranks of a run: those of torchrun, if it started this process, or local ones of our own."""

import os


def under_torchrun() -> bool:
    """Whether torchrun (or another launcher that speaks its variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def torchrun_ranks() -> int:
    """How many ranks torchrun started."""
    return int(os.environ["WORLD_SIZE"])


def leads() -> bool:
    """Whether this process prepares the run: a launcher, or rank 0 under torchrun."""
    return not under_torchrun() or int(os.environ["RANK"]) == 0


__all__ = ["leads", "torchrun_ranks", "under_torchrun"]
