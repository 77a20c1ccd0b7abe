"""Costs: how long F, B and W of one micro-batch take on every stage, and a hop between ranks."""

import math
from dataclasses import dataclass, replace

from zeropp.ir.action import Action, Kind


@dataclass(frozen=True)
class Costs:
    """Durations per stage, all in one unit of time.

    Attributes:
        forward: for each stage, the time of F of one micro-batch.
        backward: the same for B, the input gradient.
        weight: the same for W, the weight gradient.
        latency: time from an action's end until another rank sees its result (P2P).

    Raises:
        ValueError: a duration is negative or not finite, an F is not above 0, or the three kinds
            list different numbers of stages.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    weight: tuple[float, ...]
    latency: float = 0.0

    def __post_init__(self) -> None:
        for name in ("forward", "backward", "weight"):
            times = getattr(self, name)
            if len(times) != len(self.forward) or not times:
                raise ValueError(
                    f"costs: {name} must list {len(self.forward) or 'some'} stages, as forward "
                    f"does; got {len(times)}"
                )
            for time in times:
                _refuse_bad_time(name, time)
        _refuse_bad_time("latency", self.latency)
        if min(self.forward) <= 0:
            raise ValueError(f"costs: forward must be above 0, got {min(self.forward)}")

    @classmethod
    def uniform(
        cls,
        pp_size: int,
        num_chunks: int,
        forward: float = 1.0,
        backward: float = 1.0,
        weight: float = 1.0,
        *,
        latency: float = 0.0,
    ) -> "Costs":
        """Equal stages, from the times of one micro-batch through a whole rank.

        Each of the rank's `num_chunks` stages takes 1/V of `forward`, `backward` and `weight`.
        """
        stages = pp_size * num_chunks
        per_stage = [(time / num_chunks,) * stages for time in (forward, backward, weight)]
        return cls(per_stage[0], per_stage[1], per_stage[2], latency)

    def scaled(self, stage: int, factor: float) -> "Costs":
        """The same with every duration of `stage` times `factor`: an embedding, a head."""

        def scale(times: tuple[float, ...]) -> tuple[float, ...]:
            return (*times[:stage], times[stage] * factor, *times[stage + 1 :])

        return replace(
            self,
            forward=scale(self.forward),
            backward=scale(self.backward),
            weight=scale(self.weight),
        )

    @property
    def num_stages(self) -> int:
        """How many stages are listed."""
        return len(self.forward)

    def duration(self, action: Action) -> float:
        """Time of a compute action."""
        kind, stage = action.kind, action.stage
        if kind is Kind.F:
            return self.forward[stage]
        if kind is Kind.B:
            return self.backward[stage]
        if kind is Kind.W:
            return self.weight[stage]
        return self.backward[stage] + self.weight[stage]


def _refuse_bad_time(name: str, time: float) -> None:
    if not math.isfinite(time) or time < 0:
        raise ValueError(f"costs: {name} must be a finite number, 0 or more; got {time}")
