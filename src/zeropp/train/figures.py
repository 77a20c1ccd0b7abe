"""What is measured of a step besides its loss: the timeline, idle time, memory, utilisation."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from zeropp.ir.files import write_text
from zeropp.launch import Ended
from zeropp.measure.memory import Peak, held_bytes
from zeropp.measure.trace import Trace, predicted
from zeropp.planner.plan_file import COMPARED
from zeropp.report.folder import MEMORY, PICTURE, TIMELINE
from zeropp.runtime import Pipeline, pipelines
from zeropp.runtime.mesh import gathered
from zeropp.runtime.ties import local_part
from zeropp.show import show
from zeropp.train.health import Speeds
from zeropp.train.log import Log

_MIB, _GIB = 2**20, 2**30


class Figures:
    """Of one rank's run.

    Args:
        device: on which it runs; made before the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._before, self.peak, self._speeds = held_bytes(device), Peak(device), Speeds()

    def of_line(
        self, metrics: Mapping[str, Any], held: int, peak: float | None, flops: float | None
    ) -> dict[str, Any]:
        """What a line of metrics has besides: memory_gib, and mfu where it is known.

        Args:
            metrics: the step's.
            held: bytes of the fullest rank.
            peak: FLOP/s of a rank's device; None: not known.
            flops: of a token, for the whole model; None: not known.
        """
        used = None
        if peak and flops:
            used = metrics["tokens_per_s"] * flops / (peak * dist.get_world_size())
        return {"memory_gib": held / _GIB, "mfu": used}

    def draw(self, trace: Trace, pipe: Pipeline, folder: Path, log: Log) -> dict[str, float]:
        """Draw the traced step below its prediction; bubble ratios and idle time by cause, each
        over P x makespan. Collective.
        """
        step = trace.gather(pipe.placement, "measured", pipelines(pipe.mesh)[0])
        ideal = predicted(step.timeline, pipe.program.schedule)
        if dist.get_rank() == 0:
            for path in (folder / PICTURE, folder / TIMELINE):
                log.keep(path, partial(show, [ideal, step.timeline], path), "it is not drawn")
        for slow in self._speeds.slow(trace.compute_s()):
            log.warn(slow)
        found = {"bubble_predicted": ideal.bubble_ratio, "bubble": step.timeline.bubble_ratio}
        return found | {f"idle_{cause}": ratio for cause, ratio in step.idle_ratios().items()}

    def compare(
        self,
        pipe: Pipeline,
        optimizers: list[torch.optim.Optimizer],
        plan: Mapping[str, Any],
        seconds: float,
        folder: Path,
        log: Log,
    ) -> None:
        """What a plan predicted, if it did, against the second step: memory is written down, and
        both are told. Collective.
        """
        self.peak.take()
        whole = self.peak.ever - self._before
        held = gathered(_by_category(pipe, optimizers, whole))
        if dist.get_rank() == 0:
            found = {"predicted": _of_each(plan.get("memory"), len(held)), "measured": held}
            path, text = folder / MEMORY, json.dumps(found, indent=1) + "\n"
            log.keep(path, partial(write_text, "run.folder", path, text), "it is not kept")
        if not plan.keys() >= COMPARED:
            return
        memory = max(sum(rank.values()) for rank in held)
        step, peak = (float(plan[name]) for name in ("step_s", "peak_bytes"))
        log.say(
            f"second step: {step * 1e3:.0f} ms predicted, {seconds * 1e3:.0f} ms measured "
            f"({seconds / step - 1:+.0%})\n  fullest rank: {peak / _MIB:.0f} MiB predicted, "
            f"{memory / _MIB:.0f} MiB measured ({memory / peak - 1:+.0%})"
        )

    def out_of_memory(
        self,
        error: Exception,
        pipe: Pipeline,
        optimizers: list[torch.optim.Optimizer],
        less: Callable[[], str],
    ) -> Exception:
        """What ends the run where memory was too small: who had how much of what, and what to do,
        which `less` tells. Any other error as it is.
        """
        where, spent, _ = str(error).partition(f": {torch.OutOfMemoryError.__name__}")
        if isinstance(error, torch.OutOfMemoryError):  # of the only rank
            where, spent = "rank 0", str(error)
        if not spent:
            return error
        held = ""
        if isinstance(error.__cause__ or error, torch.OutOfMemoryError):
            self.peak.take()
            parts = _by_category(pipe, optimizers, self.peak.ever - self._before)
            words = (f"{n / _GIB:.2f} {name.replace('_', ' ')}" for name, n in parts.items())
            held = f", having held {', '.join(words)} GiB"
        return Ended(f"{where}: out of memory{held}; {less()}")


def export_profile(seen: torch.profiler.profile, path: Path) -> None:
    """Write what torch's profiler saw as a Chrome trace, in a folder that is made."""
    path.parent.mkdir(exist_ok=True)
    seen.export_chrome_trace(str(path))


def _of_each(known: list[Any] | None, ranks: int) -> list[Any] | None:
    """What was predicted of a pipeline's ranks, for all ranks: data ranks lie side by side."""
    if not known or ranks % len(known):
        return None
    return [one for one in known for _ in range(ranks // len(known))]


def _by_category(
    pipe: Pipeline, optimizers: list[torch.optim.Optimizer], whole: int
) -> dict[str, int]:
    """This rank's bytes at its peak: what is known by its tensors, and what is left."""
    held = {
        "parameters": sum(map(_bytes, pipe.parameters())),
        "optimizer": sum(
            _bytes(value)
            for one in optimizers
            for state in one.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ),
    }
    return held | {"everything_else": max(whole - sum(held.values()), 0)}


def _bytes(tensor: torch.Tensor) -> int:
    """Of a tensor, or of this rank's part of one that is sharded."""
    return local_part(tensor).untyped_storage().nbytes()
