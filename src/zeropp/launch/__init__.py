"""Ranks of a run: those of torchrun, if it started this process, or local ones of our own."""

import os
from typing import NamedTuple


class Launched(NamedTuple):
    """What a launcher's variables say of this process."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int


def launched() -> Launched | None:
    """What torchrun, or a launcher that speaks its variables, says; None: none started us.

    Raises:
        ValueError: a variable that is missing, no number, or contradicts the others.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    ranks = _number("WORLD_SIZE", 1, 10**6)
    rank = _number("RANK", 0, ranks - 1)
    local_ranks = _number("LOCAL_WORLD_SIZE", 1, ranks, "1")
    local_rank = _number("LOCAL_RANK", 0, local_ranks - 1, "0")
    if not os.environ.get("MASTER_ADDR"):
        raise ValueError("MASTER_ADDR must be the first rank's host, it is not set; use torchrun")
    _number("MASTER_PORT", 1, 65535)
    return Launched(rank, ranks, local_rank, local_ranks)


def _number(name: str, least: int, most: int, default: str = "") -> int:
    text = os.environ.get(name, default)
    if not text.isdecimal() or not least <= int(text[:9]) <= most:
        got = f"got {text!r}" if text else "it is not set"
        raise ValueError(
            f"{name} must be a whole number from {least} to {most}, {got}; start with torchrun, or "
            "unset RANK and WORLD_SIZE"
        )
    return int(text)


def under_torchrun() -> bool:
    """Whether torchrun (or another launcher that speaks its variables) started this process."""
    return launched() is not None


def leads() -> bool:
    """Whether this process prepares the run: a launcher, or rank 0 under torchrun."""
    given = launched()
    return given is None or given.rank == 0


def leads_host() -> bool:
    """Whether this process is the first of a launcher's on its host."""
    given = launched()
    return given is not None and given.local_rank == 0


__all__ = ["Launched", "launched", "leads", "leads_host", "under_torchrun"]
