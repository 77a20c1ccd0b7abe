"""Where a run runs: what is written down of every start, and what its figures are divided by."""

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from zeropp.plan import Plan
from zeropp.planner import SavedPlan
from zeropp.planner.decoder import DecoderShape, embedding, head, layer
from zeropp.planner.hardware import gpu_like
from zeropp.report.lines import counted
from zeropp.runtime.mesh import gathered
from zeropp.train.choice import shape_of
from zeropp.train.config import Config

_GIB = 2**30


def layout_of(saved: SavedPlan) -> str:
    """The layout in words."""
    plan = saved.plan
    words = [f"{counted(plan.pp_size, 'pipeline rank')} x {counted(plan.num_chunks, 'stage')}"]
    words += [f"{plan.dp_size} data ranks ({_shared(plan)})"] if plan.dp_size > 1 else []
    words += [f"{counted(plan.num_microbatches, 'micro-batch')} of {saved.micro_batch_size}"]
    return ", ".join([*words, str(plan.order)])


def _shared(plan: Plan) -> str:
    if plan.dp_replicate == 1:
        return f"sharded by {plan.shard}"
    copies = f"{plan.dp_replicate} copies"
    return copies if plan.dp_shard == 1 else f"{copies} of {plan.dp_shard} shards"


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s that the device states for bf16; None: not known."""
    if device.type != "cuda":
        return None
    seen = torch.cuda.get_device_properties(device)
    gpu = gpu_like(seen.name, seen.total_memory)
    return gpu.peak_flops if gpu is not None else None


def decoder_of(config: Config) -> DecoderShape:
    """The model's sizes; ValueError for one of another kind."""
    gpt = config.model.gpt()
    return DecoderShape.of(gpt) if config.model.hf is None else shape_of(config.model)


def flops_per_token(config: Config) -> float | None:
    """Of F, B and W, attention in full, as MFU is usually counted; None: not known."""
    with suppress(ValueError):  # a decoder of another kind
        shape, length = decoder_of(config), config.data.seq_len
        loads = {
            "embedding": (embedding(shape, 1, length), 1),
            "layer": (layer(shape, 1, length), shape.layers),
            "head": (head(shape, 1, length), 1),
        }
        return sum(load.flops * times for load, times in loads.values()) / length
    return None


def environment_of(config: Config, saved: SavedPlan, step: int, device: torch.device) -> Any:
    """Of this start, plain data; collective, and the same on every rank but for what is the first
    one's own.
    """
    hosts = gathered(platform.node())
    return {
        "started": time.time(),
        "step": step,
        "steps": config.run.steps,
        "layout": layout_of(saved),
        "ranks": dist.get_world_size(),
        "hosts": sorted(set(hosts)),
        "device": device_name(device),
        "device_gib": device_bytes(device) / _GIB,
        "peak_flops": peak_flops(device),
        "commit": _commit(),
        "system": platform.platform(),
        "versions": _versions(),
        "model": config.model.hf or config.model.size,
    }


def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with its build
    for name in ("zeropp", "numpy"):
        with suppress(PackageNotFoundError):  # sources that are not installed
            found[name] = version(name)
    return found


def device_name(device: torch.device) -> str:
    """As its driver calls it; of a CPU, as the system does."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def device_bytes(device: torch.device) -> int:
    """Of a GPU; of the host, for a CPU, whose ranks share it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _commit() -> str | None:
    """Of the folder in which the run was started, where that is under git."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip() or None
    return None
