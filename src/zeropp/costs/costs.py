"""Costs: how long what a step does takes on every stage, and how many bytes it needs there."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from zeropp.ir.action import Action, Kind
from zeropp.ir.collector import collector_paused
from zeropp.ir.schedule import Schedule
from zeropp.ir.timeline import Timeline, evaluate
from zeropp.ir.walk import MOMENT

_WIDEST, _MOST_STAGES = 1e9, 2**12


def _each(number: float) -> Any:
    """A field with one value per stage, which is `number` where none is given."""
    return field(default=number)


@dataclass(frozen=True)
class Costs:
    """Times in one unit and sizes in another, of one micro-batch where they depend on its size.

    A tuple has one value for each stage. A plain number in its place is that of every stage, and
    is made such a tuple. Left out, messages, collectives and the optimizer take no time, and memory
    is counted in slots: one from F until B, one from then until W.

    Attributes:
        forward: time of F.
        backward: time of B, the input gradient.
        weight: time of W, the weight gradient.
        latency: time from an action's end until another rank sees its result (P2P).
        host: how long a rank computes nothing because it sends a message, or posts the receive of
            one (the overhead o of LogP, Culler et al. 1993).
        optimizer: time of the optimizer's step, after the last gradient is reduced.
        gather: time of an all-gather of the parameters.
        reduce: time of a reduce-scatter of the gradients.
        transfer: how long the output, or its gradient, keeps a channel busy (bytes / bandwidth);
            the latency comes on top and does not.
        parameters: the shard of the parameters that a rank keeps.
        gathered: the full parameters while they are gathered.
        gradients: the unreduced gradients, from their first W until they are reduced.
        optimizer_state: with the reduced gradients, the shard that a rank keeps.
        until_backward: activations from F until B.
        until_weight: what of them, with the output gradients, is held from B until W.
        message: the output, which travels to the next stage, and whose gradient travels back.
        gather_staging: the flat buffer that an all-gather fills, from its start until the first
            action that needs the parameters copies them out.
        gather_workspace: what an all-gather needs only while it runs, such as gloo's buffers; on a
            CPU, which copies out at once, the flat buffer too.
        reduce_staging: the flat buffer that a reduce-scatter reads, in the dtype of the reduction,
            while it runs.
        workspace: what is needed beyond that while an action runs; a rank reserves the largest of
            its stages.

    Raises:
        ValueError: a number is negative or not finite, an F is not above 0, or a field lists
            another number of stages than `forward`.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    weight: tuple[float, ...]
    latency: float = 0.0
    host: float = 0.0
    optimizer: float = 0.0
    gather: tuple[float, ...] = _each(0.0)
    reduce: tuple[float, ...] = _each(0.0)
    transfer: tuple[float, ...] = _each(0.0)
    parameters: tuple[float, ...] = _each(0.0)
    gathered: tuple[float, ...] = _each(0.0)
    gradients: tuple[float, ...] = _each(0.0)
    optimizer_state: tuple[float, ...] = _each(0.0)
    until_backward: tuple[float, ...] = _each(1.0)
    until_weight: tuple[float, ...] = _each(1.0)
    message: tuple[float, ...] = _each(0.0)
    gather_staging: tuple[float, ...] = _each(0.0)
    gather_workspace: tuple[float, ...] = _each(0.0)
    reduce_staging: tuple[float, ...] = _each(0.0)
    workspace: tuple[float, ...] = _each(0.0)

    def __post_init__(self) -> None:
        for own in fields(self):
            given = getattr(self, own.name)
            values = given if isinstance(given, tuple) else (given,)
            if bad := [value for value in values if not 0 <= value < math.inf]:
                raise ValueError(
                    f"costs: {own.name} must be a finite number, 0 or more; got {bad[0]}"
                )
            if own.type is float:
                continue
            if values is not given:
                object.__setattr__(self, own.name, values * self.num_stages)
            elif len(values) != self.num_stages or not values:
                raise ValueError(
                    f"costs: {own.name} must list {self.num_stages or 'some'} stages, as forward "
                    f"does; got {len(values)}"
                )
        if min(self.forward) <= 0:
            raise ValueError(f"costs: forward must be above 0, got {min(self.forward)}")
        longest = max(*self.forward, *self.backward, *self.weight, *self.transfer, self.latency)
        if longest > min(self.forward) * _WIDEST:  # sums of them lose the short ones
            raise ValueError(
                f"costs: times must be at most {_WIDEST:g} of the shortest forward, got {longest:g}"
            )

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
        **more: Any,
    ) -> "Costs":
        """Equal stages, from the times of one micro-batch through a whole rank.

        Each of the rank's `num_chunks` stages takes 1/V of `forward`, `backward` and `weight`;
        `more` are other fields, as they are for a stage.
        """
        stages = pp_size * num_chunks
        if stages > _MOST_STAGES:
            raise ValueError(f"pp_size x num_chunks must be at most {_MOST_STAGES}, got {stages}")
        per_stage = [(time / num_chunks,) * stages for time in (forward, backward, weight)]
        return cls(per_stage[0], per_stage[1], per_stage[2], latency, **more)

    def scaled(self, stage: int, factor: float) -> "Costs":
        """The same with F, B and W of `stage` times `factor`: an embedding, a head."""

        changed: dict[str, Any] = {}
        for name in ("forward", "backward", "weight"):
            times = list(getattr(self, name))
            times[stage] *= factor
            changed[name] = tuple(times)
        return replace(self, **changed)

    @property
    def num_stages(self) -> int:
        """How many stages are listed."""
        return len(self.forward)

    @collector_paused()
    def expected(self, schedule: Schedule) -> Timeline:
        """Of the compute, where channels are free; messages take a moment at least."""
        moment = MOMENT * min(self.duration(order[0]) for order in schedule.actions)
        delay = max(self.latency + max(self.transfer), moment)
        return evaluate(schedule, self.duration, delay)

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
