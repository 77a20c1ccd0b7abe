"""Starting ranks on cores of their own: torchrun's are there, local ones torch elastic starts."""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
    record,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from zeropp.launch import START, Ended, Refused, launched, under_torchrun
from zeropp.launch.rendezvous import fresh_store
from zeropp.launch.stops import Stops

_TRACEBACK = 14  # lines of it that are shown
_LINGERS_S = 0.5  # a rank that fails: one that was killed makes others fail, and is to be first
_FILE = "TORCHELASTIC_ERROR_FILE"  # a variable: in which a rank writes down why it fails
_RANKS_PER_CORE = 16  # each is a process of a few hundred MB


def run_on_ranks(
    ranks: int,
    device: str,
    function: Callable[..., None],
    *args: Any,
    options: Mapping[str, object],
) -> None:
    """Run `function(*args)` on every rank, with the process group made.

    Starts `ranks` of them, or uses all of torchrun's where that started us. Exits with 1 if a rank
    fails, whereupon the others are stopped; with 128 + the signal if stopped by one, of which the
    ranks are told and which they may obey in good order, or at once if it comes twice. The device
    is `cpu`, `cuda`, or `auto`, which takes GPUs where there are any.

    What `options` names torchrun's ranks, each of which was given its own, must have alike, or it
    is one line on all of them.

    Raises:
        ValueError: as `device_of` does.
    """
    device = device_of(ranks, device)
    if under_torchrun():
        try:
            _run_rank(device, function, args, options)
        except Ended as why:
            print(f"zeropp: {why}", file=sys.stderr)
            raise SystemExit(why.status) from None
        return
    with Stops(_tell_ranks, _insist) as stops:
        try:
            _launch(ranks, device, function, args)
        except ChildFailedError as error:
            if stops.received is None or _said(error):
                raise SystemExit(_explained(error)) from None
        except SignalException as stopped:
            raise SystemExit(_stopped(stopped.sigval)) from None
    if stops.received is not None:
        raise SystemExit(_stopped(stops.received))


def _tell_ranks(wish: signal.Signals) -> None:
    """The ranks' wish is the launcher's; those of a terminal have it from there already. Before
    there are any, nothing begins.
    """
    told = signal.SIGTERM if wish is signal.SIGINT else wish
    ranks = multiprocessing.active_children()
    if not ranks:
        raise SignalException("stopped before it began", wish)
    for rank in ranks:
        if rank.pid is not None:
            os.kill(rank.pid, told)


def _insist(wish: signal.Signals) -> None:
    """Let torch elastic end the ranks at once, whatever they do."""
    for rank in multiprocessing.active_children():
        rank.kill()
    raise SignalException("stopped twice", wish)


def _stopped(wish: int) -> int:
    print("zeropp: stopped", file=sys.stderr)
    return 128 + wish


def _said(error: ChildFailedError) -> tuple[str, int] | None:
    """Why the first rank ended, in its own line, and the status; None where it had none."""
    kind, _, why = _cause(error).partition(": ")
    known = {ended.__name__: ended.status for ended in (Refused, Ended)}
    return (why, known[kind]) if kind in known else None


def _cause(error: ChildFailedError) -> str:
    told = error.get_first_failure()[1].error_file_data["message"]
    return str(told["message"] if isinstance(told, dict) else told)


def _explained(error: ChildFailedError) -> int:
    """Say why the first rank failed, the cause last; the status."""
    rank, first = error.get_first_failure()
    if not _wrote(first):
        how = f"was ended by {first.signal_name()}"
        if first.exitcode > 0:
            how = f"ended with status {first.exitcode} and did not say why"
        print(f"zeropp: rank {rank} {how}", file=sys.stderr)
        return 1
    if said := _said(error):
        print(f"zeropp: {said[0]}", file=sys.stderr)
        return said[1]
    told: Any = first.error_file_data["message"]
    lines = told["extraInfo"]["py_callstack"].splitlines()
    print("\n".join(lines[-_TRACEBACK:]), file=sys.stderr)
    print(f"zeropp: rank {rank} failed: {_cause(error).splitlines()[0]}", file=sys.stderr)
    return 1


def device_of(ranks: int, device: str) -> str:
    """`cpu` or `cuda`, on which so many ranks, or those of torchrun, will run.

    Raises:
        ValueError: more of them on this host than it has GPUs, or than its cores can start.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    given, cores = launched(), os.cpu_count() or 1
    here = ranks if given is None else given.local_ranks
    if device == "cuda" and torch.cuda.device_count() < here:
        raise ValueError(
            f"device: {here} ranks need as many GPUs, {torch.cuda.device_count()} are "
            "here; use fewer ranks or device cpu"
        )
    if given is None and here > _RANKS_PER_CORE * cores:
        raise ValueError(
            f"ranks: {here} are too many for {cores} cores; use at most {_RANKS_PER_CORE * cores} "
            "on this host, or torchrun on several"
        )
    return device


def _launch(ranks: int, device: str, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    with TemporaryDirectory(prefix="zeropp-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=f"zeropp-{os.getpid()}",
            max_restarts=0,
            monitor_interval=0.1,
            start_method=START,
            logs_specs=DefaultLogsSpecs(logs),
            local_addr="localhost",  # a host's name need not resolve
            signals_to_handle="SIGHUP,SIGQUIT",  # the others are heard here
        )
        _hush()
        try:
            elastic_launch(config, _run_local_rank)(device, function, args)
        except ChildFailedError as error:
            raise _first(error, Path(logs)) from None


def _first(error: ChildFailedError, logs: Path) -> ChildFailedError:
    """Of the rank that wrote down first why it fails; one that then missed it may end sooner."""
    _, failure = error.get_first_failure()
    files = sorted(logs.rglob("error.json"), key=lambda file: file.stat().st_mtime_ns)
    if not _wrote(failure):
        return error
    rank = int(files[0].parent.name)
    first = ProcessFailure(rank, failure.pid, failure.exitcode, str(files[0]))
    return ChildFailedError(error.name, {rank: first})


def _wrote(failure: ProcessFailure) -> bool:
    """Whether it wrote down why; who is killed or leaves by itself does not."""
    return failure.exitcode > 0 and isinstance(failure.error_file_data["message"], dict)


def _hush() -> None:
    """Torch elastic's own words of a failure, which are said here in few lines."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _run_local_rank(device: str, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # what was imported is no garbage
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nor need this host's name
    try:
        _run_rank(device, function, args, {})  # they were forked with the same
    except Exception as error:
        if not isinstance(error, Ended):
            time.sleep(_LINGERS_S)
        if Path(os.environ[_FILE]).exists():  # torch elastic would write it again, with a new time
            raise SystemExit(1) from None
        raise


def _end_with_parent() -> None:
    """End this process when the launching one is gone."""
    if (launcher := multiprocessing.parent_process()) is not None:
        launcher.join()
    os._exit(1)


def _run_rank(
    device: str, function: Callable[..., None], args: tuple[Any, ...], options: Mapping[str, object]
) -> None:
    """What fails is written down before the others see this rank leave, and fail too."""
    try:
        record(_in_group)(device, function, args, options)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _in_group(
    device: str, function: Callable[..., None], args: tuple[Any, ...], options: Mapping[str, object]
) -> None:
    from zeropp.runtime.agreement import together  # which a launcher does without

    given = launched()
    if given is None:
        raise RuntimeError("a rank has a launcher")
    if device == "cuda":
        torch.cuda.set_device(given.local_rank)
    else:
        torch.set_num_threads(keep_to_own_cores(given.local_rank, given.local_ranks))
    backend, store = "nccl" if device == "cuda" else "gloo", fresh_store(given)
    if store is None:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=store, rank=given.rank, world_size=given.ranks)
    alike = {"command": function.__name__, "version of torch": torch.__version__, **options}
    try:
        together(lambda: None, lambda _: alike)
    except ValueError as error:
        raise Refused(str(error)) from None
    function(*args)


def keep_to_own_cores(local_rank: int, local_ranks: int) -> int:
    """Bind this process, one of `local_ranks` that are bound alike, to its share; how many cores.

    On a CPU, a thread that sends or receives for one rank and wakes on a core where another rank
    computes waits there for the end of a time slice, some milliseconds, in which its own rank may
    stand still at a lock that the thread holds. All threads that are made from here on are bound.

    A process stays where it may run already, if a launcher or the user has bound it (numactl,
    torchrun's --numa-binding), if there are fewer cores than ranks, or where the system has no such
    calls.
    """
    every = os.cpu_count() or 1
    each = max(1, every // local_ranks)
    if not hasattr(os, "sched_setaffinity"):
        return each
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < every:
        return max(1, len(allowed) // local_ranks)
    if local_ranks <= every:
        os.sched_setaffinity(0, allowed[local_rank * each : (local_rank + 1) * each])
    return each
