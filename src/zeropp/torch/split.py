"""Our split of the backward in a `PipelineStage`, by its `dw_builder`.

torch's stage runs a plain backward for what it calls I, and asks `dw_builder` for what W will do.
So split layers leave their W on the micro-batch's tape (`runtime/split.py`), and that is what it is
given. Which micro-batch is running is known from the stage's own two methods, which are wrapped.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import zeropp.torch.compat as compat
from zeropp.runtime.auxiliary import AuxiliaryLoss
from zeropp.runtime.compat import is_compiled
from zeropp.runtime.shard import require_hookless
from zeropp.runtime.split import SplitLayer, split_layers
from zeropp.runtime.split_rules import rule_of
from zeropp.runtime.tape import Recorder, Tape
from zeropp.torch.gradients import Gradients, ShardedGradients


class SplitStage:
    """A stage of torch's whose layers are split in every step of `ScheduleZeroPP`, and in no other
    schedule's.

    Attributes:
        gradients: what its micro-batches find.

    Raises:
        ValueError: what would not be exact, or has no place here.
    """

    def __init__(self, stage: Any) -> None:
        module = stage.submod
        _require_splittable(f"stage {stage.stage_index}", module)
        self.gradients: Gradients = (
            ShardedGradients(module) if compat.is_sharded(module) else Gradients(module)
        )
        self._stage = stage
        self._recorder = Recorder()
        self._tapes: dict[int, Tape] = {}  # from F until B
        self._now: Tape | None = None  # in B
        self._running = False
        self._seed = torch.zeros(())  # of auxiliary losses, of which there are none
        split_layers(module, self._recorder)
        for layer in module.modules():
            if isinstance(layer, SplitLayer):  # also one that was split before
                layer.split_recorder = self._recorder
        self._forward, self._backward = stage.forward_one_chunk, stage.backward_one_chunk
        stage.forward_one_chunk, stage.backward_one_chunk = self.forward, self.backward
        stage.dw_builder = self.left

    def begin(self, divisor: int, *, trains: bool) -> None:
        """A step, whose gradients are divided by `divisor`."""
        self._running = trains
        self.gradients.begin(divisor)

    def end(self, *, trained: bool) -> None:
        """Of the step: leave its gradients, or nothing."""
        self._running = False
        self._tapes.clear()
        self.gradients.finish() if trained else self.gradients.drop()

    def forward(self, chunk: int, *args: Any, **kwargs: Any) -> Any:
        """The stage's own, in training on a tape."""
        if not self._running:
            return self._forward(chunk, *args, **kwargs)
        tape = self._tapes[chunk] = Tape(self.gradients.sums, self._seed)
        with self._recorder.writing(tape):
            self._recorder.inside = True
            try:
                return self._forward(chunk, *args, **kwargs)
            finally:
                self._recorder.inside = False

    def backward(
        self, chunk: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        """The stage's own, which leaves its W on the tape, or runs it at once."""
        tape = self._now = self._tapes.pop(chunk) if self._running else None
        with self._recorder.writing(tape, again=True):
            if tape is not None:
                tape.fused = full_backward
            self._backward(chunk, loss, full_backward, last_backward)
        self._now = None

    def left(self) -> Callable[[], None]:
        """What the backward that has just run left for W, for `dw_builder`."""
        return _nothing if self._now is None else self._now.run


def _nothing() -> None:
    """Where the whole backward has run."""


def split_of(stage: Any) -> SplitStage:
    """The stage's split, made once, also where several schedules share it.

    Raises:
        ValueError: as `SplitStage` does, or it has a `dw_builder` of its own.
    """
    if stage.dw_builder is None:
        return SplitStage(stage)
    own = getattr(stage.dw_builder, "__self__", None)
    if not isinstance(own, SplitStage):
        raise ValueError(
            f"stage {stage.stage_index}: it has a dw_builder of its own, in whose place ours would "
            "stand; leave it out"
        )
    return own


def _require_splittable(name: str, module: nn.Module) -> None:
    if any(map(compat.is_replicated, module.modules())):
        raise ValueError(
            f"{name}: DistributedDataParallel and replicate reduce after a backward, and would "
            "miss W; use fully_shard, which replicates over the first axis of a mesh of two"
        )
    if (tensor := compat.unsplittable(module)) is not None:
        raise ValueError(
            f"{name}: parameter {tensor} is a DTensor, as tensor parallelism makes it, which is "
            "not split; use pipelines and fully_shard alone"
        )
    if is_compiled(module):
        raise ValueError(
            f"{name}: something in it is compiled, and the split would stop it at every layer; "
            "leave it uncompiled, or train it with zeropp.pipeline"
        )
    for path, inner in module.named_modules():
        if isinstance(inner, AuxiliaryLoss):
            raise ValueError(
                f"{name}: {path} is an AuxiliaryLoss, for which torch's pipelining has no place; "
                "train it with zeropp.pipeline"
            )
        if isinstance(inner, SplitLayer) or rule_of(inner) is not None:
            for own, parameter in inner.named_parameters(recurse=False):
                require_hookless(f"{path}.{own}", parameter)
