"""Checkpoints while training goes on: a copy is taken between two steps, a thread writes it."""

import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from zeropp.checkpoint.folder import Keep, prune
from zeropp.checkpoint.state import Optimizers, Snapshot, require_savable, snapshot, write
from zeropp.runtime.mesh import REPLICATE, gathered, new_name, size_along
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.ties import local_part

_NICE = 5  # after the ranks; at 19, where these share cores, a write takes many steps


@dataclass(frozen=True)
class Saved:
    """How a checkpoint went: of which step, where, for how long, and why it is not there."""

    step: int
    path: Path
    seconds: float
    refusal: str | None = None


class Saver:
    """Writes checkpoints `step-N` into a folder, one at a time; made on all ranks.

    A rank's part of the state is held a second time, in host memory, from the first checkpoint on.

    Attributes:
        copied_bytes: the size of that copy on this rank; 0 before the first checkpoint.
        written_bytes: the size of a checkpoint, by all ranks.

    Args:
        folder: in which they lie, on a disk that all ranks see.
        pipe: what is saved.
        optimizer: of its parameters; or several.
        keep: which are kept; others are removed once a new one is there.
    """

    def __init__(
        self, folder: Path, pipe: Pipeline, optimizer: Optimizers, keep: Keep | None = None
    ) -> None:
        self._folder, self._pipe, self._optimizer = folder, pipe, optimizer
        self._keep, self._token = keep or Keep(), new_name()
        self._copies: dict[str, dict[str, Tensor]] = {}
        self._group = dist.new_group(backend="gloo")
        self._thread: threading.Thread | None = None
        self._saved: list[Saved] = []
        self.copied_bytes = self.written_bytes = 0

    def begin(
        self,
        step: int,
        run: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Copy the state of now and let it be written; waits for the one before. Collective.

        Args:
            step: after which it is.
            run: what the header shall hold besides; of rank 0.
            files: texts that are to lie in the checkpoint; of rank 0.
        """
        self.wait()
        self._pipe.agree(f"Saver({self._folder}).begin({step})")
        if not self._copies:
            require_savable(self._pipe, self._optimizer)
        made = snapshot(self._pipe, self._optimizer, step, run)
        copied = replace(made, tensors=self._copied(made))
        if not self.written_bytes:
            replicas = size_along(self._pipe.mesh, REPLICATE)
            self.written_bytes = sum(gathered(self.copied_bytes)) // replicas
        self._thread = threading.Thread(
            target=self._write, args=(copied, files or {}), name="zeropp-checkpoint", daemon=True
        )
        self._thread.start()

    @torch.no_grad()
    def _copied(self, made: Snapshot) -> Mapping[str, Mapping[str, Tensor]]:
        """The tensors as they are now, on the host; in the memory of the copy before."""
        for part, tensors in made.tensors.items():
            kept = self._copies.setdefault(part, {})
            for key, tensor in tensors.items():
                if key in kept:
                    local_part(kept[key]).copy_(local_part(tensor))
                else:
                    kept[key] = tensor.detach().to("cpu", copy=True)
        held = (tensor for part in self._copies.values() for tensor in part.values())
        self.copied_bytes = sum(local_part(tensor).nbytes for tensor in held)
        return self._copies

    def take(self) -> list[Saved]:
        """What has ended since this was asked last."""
        found, self._saved = self._saved, []
        return found

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, if there is one."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Wait, and give back memory and threads."""
        self.wait()
        dist.destroy_process_group(self._group)

    def _write(self, made: Snapshot, files: Mapping[str, str]) -> None:
        _give_way()
        step, begun, refusal = made.header.step, time.perf_counter(), None
        path = self._folder / f"step-{step}"
        try:
            with torch.no_grad():
                write(path, made, self._token, files, self._group)
            if dist.get_rank() == 0:
                prune(self._folder, self._keep)
        except Exception as error:  # a thread has nobody else to tell
            refusal = str(error)
        self._saved = [*self._saved, Saved(step, path, time.perf_counter() - begun, refusal)]


def _give_way() -> None:
    """Let training go first; a thread has a priority of its own on Linux alone."""
    if sys.platform == "linux":
        with suppress(PermissionError):  # in a sandbox that allows none, it takes its turn
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
