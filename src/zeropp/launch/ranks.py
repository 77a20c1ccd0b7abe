"""Ranks of a run: torchrun's where it started us, else our own local ones, by torch elastic."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from zeropp.launch.cores import keep_to_own_cores


def under_torchrun() -> bool:
    """Whether torchrun (or another launcher that speaks its variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def torchrun_ranks() -> int:
    """How many ranks torchrun started."""
    return int(os.environ["WORLD_SIZE"])


def launch(ranks: int, device: str, function: Callable[..., None], *args: Any) -> None:
    """Run `function(*args)` on every rank, with the process group made.

    Args:
        ranks: how many to start here; torchrun's, where that started us, are all used.
        device: `cpu` or `cuda`.
        function: run on each.
        args: for it.

    Raises:
        ValueError: more GPUs than there are.
        torch.distributed.elastic.multiprocessing.errors.ChildFailedError: a local rank failed;
            the others were stopped.
    """
    if under_torchrun():
        record(run_rank)(device, function, args)
        return
    if device == "cuda" and torch.cuda.device_count() < ranks:
        raise ValueError(
            f"device: {ranks} ranks need as many GPUs, {torch.cuda.device_count()} are "
            "here; use fewer ranks or device cpu"
        )
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=f"zeropp-{os.getpid()}",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    elastic_launch(config, run_local_rank)(device, os.getpid(), function, args)


@record
def run_local_rank(
    device: str, parent: int, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """One rank of a local launch; ends when the launching process is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    run_rank(device, function, args)


def run_rank(device: str, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Join the process group, run, leave."""
    local_rank, local_ranks = (
        int(os.environ.get(name, default))
        for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(keep_to_own_cores(local_rank, local_ranks))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        function(*args)
    finally:
        dist.destroy_process_group()


def resolve_device(wanted: str) -> str:
    """`cuda` or `cpu`; `auto` takes GPUs where there are any."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
