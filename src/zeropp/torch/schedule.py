"""A schedule for torch's `PipelineStage`s: our orders and our split in torch's runtime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zeropp.torch.compat as compat
from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir import Order, Program, Schedule
from zeropp.program import Policy, lower, require_valid
from zeropp.runtime.agreement import together
from zeropp.runtime.programs import named
from zeropp.torch.shapes import OneShape
from zeropp.torch.split import split_of
from zeropp.torch.text import read, torch_names


class ScheduleZeroPP(compat.Runtime):
    """In the place of torch's ScheduleInterleaved1F1B, and used as that is.

    The order is made by name and knobs, or taken from a program. Layers that a rule knows are split
    into B and W; the others get their gradients in B.

    Args:
        stages: this rank's `PipelineStage`s, V of them, or the only one. The schedule's placement
            says which: stage s on rank s mod P (loop), or there and back (vee).
        n_microbatches: B.
        loss_fn: `(output, target)` -> scalar; None: forward only.
        schedule: the order's name; it and the next four as for `zeropp.Plan`.
        unit_size: U.
        seam: what happens between units.
        slots: most activations on a rank.
        costs: times for which the order is made.
        shard: where `fully_shard` has sharded the stages: gather and reduce per `unit`, `step` or
            `microbatch`; None: as torch does.
        max_resident: for `shard="unit"`, most stages of a rank that are gathered at once.
        program: instead of all these, a program or a schedule, or the path of a file of either, or
            of torch's CSV (for which `shard` counts). How it cuts the model and what it recomputes
            is the stages' own affair.
        options: torch's own: args_chunk_spec, kwargs_chunk_spec, output_merge_spec, scale_grads
            (by default gradients are divided by B, for a loss that is a mean).

    Attributes:
        program: what runs, but for the messages, which torch places.

    Raises:
        ValueError: on every rank of the pipeline alike: an order that is none, stages that do not
            lie as it places them, or a stage that cannot be split.
    """

    def __init__(
        self,
        stages: Any,
        n_microbatches: int,
        loss_fn: Callable[..., Any] | None = None,
        *,
        schedule: str = "zeropp",
        unit_size: int | None = None,
        seam: str | None = None,
        slots: int | None = None,
        costs: Costs | None = None,
        shard: str | None = None,
        max_resident: int = 2,
        program: Program | Schedule | Path | str | None = None,
        **options: Any,
    ) -> None:
        own = list(stages) if isinstance(stages, Sequence) else [stages]
        own.sort(key=lambda stage: stage.stage_index)

        def prepare() -> Program:
            order = Order(schedule, unit_size, seam, slots)
            if program is None:
                P, V = own[0].group_size, len(own)
                resident = max_resident if shard == Policy.UNIT else None
                made = generate(order, P, V, n_microbatches, costs=costs, max_resident=resident)
                found = lower(made, shard, max_resident=max_resident)
            else:
                if order != Order() or costs is not None:
                    raise ValueError("program: it says its own order; leave out all that makes one")
                found = _given(program, shard, max_resident)
            _require_fitting(require_valid(found), own, n_microbatches)
            self._split = {stage.stage_index: split_of(stage) for stage in own}
            return found

        with compat.device_of_objects(own[0]):
            self.program = together(prepare, named, own[0].group)
        super().__init__(own, n_microbatches, loss_fn, **options)
        compute, whole = (
            compat.orders_of(map(torch_names, orders))
            for orders in (self.program.schedule.actions, self.program.actions)
        )
        compat.set_order(self, compute, whole if self.program.shard else None)
        self._forwards = compat.forward_only(self)
        self._shape = OneShape(own[0])
        self.register_custom_function(compat.WEIGHT, self._run_weight)
        self.register_custom_function(compat.REDUCE, self._run_reduce)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's schedules do; `eval` goes this way too.

        Raises:
            ValueError: micro-batches of several shapes, as `OneShape` says.
        """
        self._shape.require(compat.columns(self, args, kwargs), trains=self._has_backward)
        for split in self._split.values():
            divisor = self._n_microbatches if self.scale_grads else 1
            split.begin(divisor, trains=self._has_backward)
        trained = False
        try:
            run = super().step if self._has_backward else self._evaluate
            output = run(*args, **kwargs)
            trained = self._has_backward
        finally:
            for split in self._split.values():
                split.end(trained=trained)
        return output

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        trains, self.pipeline_order_with_comms = self.pipeline_order_with_comms, self._forwards
        try:
            return super().step(*args, **kwargs)
        finally:
            self.pipeline_order_with_comms = trains

    def _run_weight(self, action: Any, ctx: Any) -> None:
        """W, which needs no parameters, so its stage need not be gathered, as torch demands."""
        for stage in self._stages:
            if stage.stage_index == action.stage_index:
                stage.backward_weight_one_chunk(action.microbatch_index)

    def _run_reduce(self, action: Any, ctx: Any) -> None:
        self._split[action.stage_index].gradients.reduce()


def _given(given: Program | Schedule | Path | str, shard: str | None, resident: int) -> Program:
    found = read("program", Path(given)) if isinstance(given, str | Path) else given
    if isinstance(found, Schedule):
        return lower(found, shard, max_resident=resident)
    if shard is not None:
        raise ValueError(f"shard: the program says its own ({found.shard}); leave it out")
    return found


def _require_fitting(program: Program, stages: Sequence[Any], num_microbatches: int) -> None:
    """Raise ValueError unless the program is one of these stages and this many micro-batches."""
    schedule, placement = program.schedule, program.placement
    if schedule.num_microbatches != num_microbatches:
        raise ValueError(
            f"n_microbatches: the program has {schedule.num_microbatches}, got {num_microbatches}"
        )
    if not schedule.trains:
        raise ValueError("program: it is forward only; give one that trains, and call eval")
    sizes = stages[0].group_size, stages[0].num_stages
    if sizes != (placement.pp_size, placement.num_stages):
        raise ValueError(
            f"stages: {schedule.name} has {placement.num_stages} over {placement.pp_size} ranks, "
            f"got {sizes[1]} over {sizes[0]}; every rank needs as many"
        )
    wanted = placement.stages_of(stages[0].group_rank)
    found = tuple(stage.stage_index for stage in stages)
    if found != wanted:
        raise ValueError(
            f"stages: {schedule.name} lays them as a {placement.shape}, here the stages "
            f"{' '.join(map(str, wanted))}, got {' '.join(map(str, found))}; make those, or take "
            "another schedule"
        )
