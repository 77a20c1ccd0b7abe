"""Ranks of a run: those of torchrun, if it started this process, or local ones of our own."""

import os
import sys
from multiprocessing import forkserver
from typing import NamedTuple

# local ranks are forked from a process that has imported all and run nothing, where that is safe
START = "forkserver" if sys.platform == "linux" else "spawn"

# launchers, and what they tell each process of how many they started
_OTHERS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun"}


class Ended(Exception):  # noqa: N818 - it may be no error
    """Why ranks end, in one line, which all of them or the one that knows it raise.

    Attributes:
        status: with which the command exits.
    """

    status = 1


class Refused(Ended):
    """What a run was given cannot be used."""

    status = 2


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
        _refuse_others()
        return None
    ranks = _number("WORLD_SIZE", 1, 10**6)
    rank = _number("RANK", 0, ranks - 1)
    local_ranks = _number("LOCAL_WORLD_SIZE", 1, ranks, "1")
    local_rank = _number("LOCAL_RANK", 0, local_ranks - 1, "0")
    if not os.environ.get("MASTER_ADDR"):
        raise ValueError("MASTER_ADDR must be the first rank's host, it is not set; use torchrun")
    _number("MASTER_PORT", 1, 65535)
    return Launched(rank, ranks, local_rank, local_ranks)


def _refuse_others() -> None:
    """Raise ValueError where a launcher that does not speak torchrun's variables starts several."""
    for name, tool in _OTHERS.items():
        if os.environ.get(name, "1") not in ("", "1"):
            raise ValueError(
                f"{name}: {tool} starts {os.environ[name]} processes, of which none knows its "
                f"rank; start one a host: {tool} torchrun --nnodes N --nproc-per-node M "
                "--rdzv-backend c10d --rdzv-endpoint HOST:29500 --no-python zeropp train ..."
            )


def restarted() -> bool:
    """Whether torchrun has started this process in the place of one that failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


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


def load_ranks(*modules: str) -> None:
    """Let the process that local ranks are forked from load torch, beside this one, if none does.

    Args:
        modules: what it imports besides the engine: what its ranks were started by, which each
            imports again, and what they run.
    """
    if START == "forkserver" and not under_torchrun():
        forkserver.set_forkserver_preload([f"{__name__}.forked", *modules])
        forkserver.ensure_running()


__all__ = [
    "START",
    "Ended",
    "Launched",
    "Refused",
    "launched",
    "leads",
    "leads_host",
    "load_ranks",
    "restarted",
    "under_torchrun",
]
