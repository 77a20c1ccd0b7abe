"""Run a function on several ranks: real processes, gloo, a hard time limit, the first traceback."""

import faulthandler
import gc
import multiprocessing as mp
import os
import select
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from zeropp.launch.ranks import keep_to_own_cores

_IMPORTED = ["zeropp.launch.forked", "zeropp.checkpoint", "zeropp.measure.adapt", "zeropp.hf"]
_IMPORTED += ["pytest", "support.exactness"]  # which tests import, whose functions ranks run


class RankFailedError(AssertionError):
    """A rank raised, died or ran out of time."""


def forking() -> mp.context.ForkServerContext:
    """Processes from a server that has imported torch and the engine, and has run nothing."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def run_ranks(
    world_size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 120.0,
    backend: str = "gloo",
    own_cores: bool = False,
) -> list[Any]:
    """`[function(*args) on rank 0, on rank 1, ...]`; every process is gone when this returns.

    With `own_cores` every rank is bound to its share of the cores.
    """
    context = forking()
    with tempfile.TemporaryDirectory() as folder:
        processes, results = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            store = str(Path(folder) / "store")
            where = (rank, world_size, store, backend, own_cores)
            target_args = (theirs, *where, function, args)
            process = context.Process(target=_main, args=target_args, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            results.append(ours)
        try:
            return _gather(results, time.monotonic() + timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _gather(results: list[Connection], deadline: float) -> list[Any]:
    values: dict[int, Any] = {}
    while len(values) < len(results):
        open_ones = {ours: rank for rank, ours in enumerate(results) if rank not in values}
        ready = wait(list(open_ones), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankFailedError(f"ranks {sorted(open_ones.values())} ran out of time")
        for ours in ready:
            rank = open_ones[ours]
            try:
                ok, value = ours.recv()
            except EOFError:
                raise RankFailedError(f"rank {rank} died without a word") from None
            if not ok:
                raise RankFailedError(f"rank {rank} failed:\n{value}")
            values[rank] = value
    return [values[rank] for rank in range(len(results))]


def _main(
    results: Connection,
    rank: int,
    world_size: int,
    store: str,
    backend: str,
    own_cores: bool,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    threading.Thread(target=_end_unread, args=(results,), daemon=True).start()
    gc.freeze()  # what was imported is no garbage
    faulthandler.enable()  # a rank that crashes says where
    torch.set_num_threads(1)
    if own_cores:
        keep_to_own_cores(rank, world_size)
    try:
        if backend == "nccl":
            devices = torch.cuda.device_count()
            torch.cuda.set_device(rank % devices)
            if world_size > devices:  # NCCL takes ranks on one device only from other hosts
                os.environ["NCCL_HOSTID"] = f"host {rank}"
        dist.init_process_group(
            backend, store=dist.FileStore(store, world_size), rank=rank, world_size=world_size
        )
        results.send((True, function(*args)))
    except BaseException:
        results.send((False, traceback.format_exc()))
    time.sleep(60)  # peers may still need this rank's sockets; the parent kills it


def _end_unread(results: Connection) -> None:
    """End this rank when nobody is left to read its results: whoever started it was killed."""
    broken = select.poll()
    broken.register(results.fileno(), 0)
    broken.poll()
    os._exit(1)
