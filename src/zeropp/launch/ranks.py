"""Starting ranks: torchrun's are there already, local ones are started by torch elastic."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from zeropp.launch import under_torchrun
from zeropp.launch.cores import keep_to_own_cores
from zeropp.runtime.compat import common_store

_SHARED = "zeropp/shared"


def run_on_ranks(ranks: int, device: str, function: Callable[..., None], *args: Any) -> None:
    """Run the ranks; exit with 1 if one fails, with 128 + the signal if stopped by one."""
    try:
        launch(ranks, device, function, *args)
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except SignalException as stopped:
        print("zeropp: stopped", file=sys.stderr)
        raise SystemExit(128 + stopped.sigval) from None


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


def share(text: str | None) -> str:
    """Rank 0's text on every rank, through the store by which they met.

    Args:
        text: what rank 0 shares; elsewhere it is not looked at.
    """
    store = common_store()
    if dist.get_rank() == 0 and text is not None:
        store.set(_SHARED, text)
    return str(store.get(_SHARED), "utf-8")


def resolve_device(wanted: str) -> str:
    """`cuda` or `cpu`; `auto` takes GPUs where there are any."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
