"""One shape for all micro-batches: torch's stages fix that of their messages before the first.

One of another shape would end in an error about sizes on one rank, in closed connections on others.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from zeropp.runtime.agreement import together
from zeropp.torch.compat import device_of_objects

Shapes = list[Any]  # of tensors; None of what is none


class OneShape:
    """Of the micro-batches since torch has fixed it: in the first step, and in the first that
    trains after one that evaluates, or the other way round.

    Args:
        stage: one of this rank's.
    """

    def __init__(self, stage: Any) -> None:
        self._stage = stage
        self._trains: bool | None = None
        self._fixed: Shapes = []

    def require(self, columns: Sequence[Sequence[Any]], *, trains: bool) -> None:
        """Of a step; collective where torch fixes the shape.

        Args:
            columns: each input, and the target, of all micro-batches.
            trains: whether the step has a backward.

        Raises:
            ValueError: one is of another shape; on every rank where it is fixed, later on those
                that are given it.
        """
        if self._stage.group_size == 1:
            return  # no messages
        shapes = [[getattr(part, "shape", None) for part in column] for column in columns]
        if trains == self._trains:
            self._check(shapes)
            return
        self._fixed = [column[0] for column in shapes]
        with device_of_objects(self._stage):
            together(partial(self._check, shapes), group=self._stage.group)
        self._trains = trains

    def _check(self, shapes: list[Shapes]) -> None:
        for fixed, column in zip(self._fixed, shapes, strict=False):
            for number, shape in enumerate(column):
                if shape != fixed:
                    raise ValueError(
                        f"batch: micro-batch {number} is of {_text(shape)}, the first of "
                        f"{_text(fixed)}; torch's messages have one shape, so give batches of one "
                        "size, a multiple of n_microbatches"
                    )


def _text(shape: Any) -> str:
    return "x".join(map(str, shape or ())) or "no shape"
