"""What a run really takes, next to what its plan predicted."""

import os
import resource
from collections.abc import Mapping
from typing import Any

import torch

_MIB = 2**20


def held_bytes(device: torch.device) -> int:
    """What this process holds now: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device) -> int:
    """The most that it ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def against_prediction(predicted: Mapping[str, Any], seconds: float, memory: float) -> str:
    """One line: a step's seconds and the fullest rank's bytes, predicted and measured."""
    step, peak = float(predicted["step_s"]), float(predicted["peak_bytes"])
    return (
        f"second step: {step * 1e3:.0f} ms predicted, {seconds * 1e3:.0f} ms measured "
        f"({seconds / step - 1:+.0%}); fullest rank: {peak / _MIB:.0f} MiB predicted, "
        f"{memory / _MIB:.0f} MiB measured ({memory / peak - 1:+.0%})"
    )
