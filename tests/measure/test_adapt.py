"""Adapting: a better order for measured times, the same gradients across the switch."""

import dataclasses

import pytest
import torch
from torch import nn

from support.exactness import Plain, gradient_errors
from support.features import even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp.build import pipeline, program_of
from zeropp.costs import Costs
from zeropp.ir import Kind
from zeropp.ir.slots import peak_slots_per_rank
from zeropp.measure.adapt import Adapter, better_order
from zeropp.measure.rehearsal import WIDTH, EmulatedCompute, tiny_blocks, tiny_loss
from zeropp.plan import Plan
from zeropp.program import without_collectives
from zeropp.runtime.mesh import data_rank
from zeropp.runtime.observers import Observers

B = 8


def steps_across_a_switch(D: int) -> dict[str, float]:
    """Errors of gradients summed over a step before and a step after the order changed."""
    batches = [even(B, torch.Generator().manual_seed(d)) for d in range(2 * D)]
    torch.manual_seed(1)
    blocks = gpt(tied=True)
    torch.manual_seed(1)
    plain = Plain(gpt(tied=True))
    before, after = batches[:D], batches[D:]
    for part in (before, after):
        plain.losses([pair for batch in part for pair in batch], {})[0].backward()
    plan = Plan(2, 2, B, unit_size=2, seam="drain", dp_shard=D, max_resident=1)
    pipe = pipeline(blocks, loss_sum, plan)
    own = data_rank(pipe.mesh)
    pipe.step(before[own])
    times = (1.0, 1.3, 1.0, 1.3)
    costs = Costs(times, times, (0.5,) * 4)
    other = dataclasses.replace(plan, seam="carry", unit_size=4, costs=costs)
    pipe.follow(program_of(other))
    pipe.step(after[own])
    errors = gradient_errors(plain, pipe)
    pipe.close()
    return errors


@pytest.mark.parametrize("D", [1, 2])
def test_gradients_are_exact_across_a_switch(D: int) -> None:
    for errors in run_ranks(2 * D, steps_across_a_switch, D):
        assert len(errors) > 10
        assert max(errors.values()) < 1e-5


def adapt_to_a_slow_rank() -> list[str]:
    """What the adapter says over twelve steps, in which rank 0 slows down after the sixth."""
    plan = Plan(2, 2, B, unit_size=2, seam="drain")
    times = (0.004,) * 4
    pipe = pipeline(tiny_blocks(4), tiny_loss, plan, device=torch.device("cpu"))
    adapter, batch = Adapter(pipe, plan, every=3, gain=0.01), torch.zeros(B, WIDTH)
    emulated = EmulatedCompute(Costs(times, times, times))

    laps = Observers(emulated, adapter.times)
    said = []
    for step in range(12):
        pipe.step((batch, batch), observer=laps)
        switch = adapter.after_step()
        if switch is not None:
            said.append(str(switch))
            assert adapter.plan == switch.plan
            assert pipe.program == switch.program
            assert pipe.program == without_collectives(program_of(switch.plan))
        if step == 5 and pipe.rank == 0:
            emulated.slow_down(0, 1.5)
            emulated.slow_down(2, 1.5)
    pipe.close()
    return said


def adapt_zb_v() -> list[str]:
    """What the adapter says over three steps in which every other stage takes longer."""
    plan = Plan(2, 2, 4, "zb-v", slots=5, refine=True)
    pipe = pipeline(tiny_blocks(4), tiny_loss, plan, device=torch.device("cpu"))
    adapter, batch = Adapter(pipe, plan, every=3, gain=0.01), torch.zeros(4, WIDTH)
    times = (0.004, 0.006, 0.004, 0.006)
    laps = Observers(EmulatedCompute(Costs(times, times, times)), adapter.times)
    said = []
    for _ in range(3):
        pipe.step((batch, batch), observer=laps)
        said.append(str(adapter.after_step()))
    assert adapter.plan.costs is not None
    assert max(peak_slots_per_rank(pipe.program.schedule)) <= 5
    pipe.step((batch, batch))
    pipe.close()
    return said


def test_a_vee_is_refined_or_made_anew_for_its_times_within_its_slots() -> None:
    first, second = run_ranks(2, adapt_zb_v)
    assert first == second
    assert first[:2] == ["None", "None"]
    assert first[2].startswith(
        ("new order (zb-v slots=5 refined): ", "new order (vee slots=5 refined)")
    )


def test_all_ranks_switch_together_and_say_what_it_brings() -> None:
    first, second = run_ranks(2, adapt_to_a_slow_rank)
    assert first == second
    assert first
    assert "seam=strict" in first[0] or "seam=eager" in first[0]
    assert "% " not in first[0].split("(")[0]


def test_a_better_order_holds_and_communicates_no_more() -> None:
    times = (1.0,) * 8
    for seam in ("carry", "drain"):
        plan = Plan(4, 2, 16, unit_size=4, seam=seam, dp_shard=2, costs=Costs(times, times, times))
        program = program_of(plan)
        switch = better_order(plan, program, Costs(times, times, (0.5,) * 8))
        assert switch is not None
        assert switch.gain > 0.03
        order = switch.program
        held = [max(peak_slots_per_rank(p.schedule)) for p in (order, program)]
        assert held[0] <= held[1]
        for kind in (Kind.UNSHARD, Kind.REDUCE):
            assert max(order.count(kind)) <= max(program.count(kind))


def refusals() -> list[str]:
    """What is said to requests that cannot be met."""
    fused, split = Plan(1, 1, 2, "1f1b"), Plan(1, 1, 2)
    pipe = pipeline([nn.Linear(WIDTH, WIDTH)], tiny_loss, fused)
    ready = pipeline([nn.Linear(WIDTH, WIDTH)], tiny_loss, split)
    requests = (
        lambda: Adapter(pipe, fused),
        lambda: Adapter(ready, split, every=0),
        lambda: Adapter(ready, split, gain=1.5),
        lambda: ready.follow(program_of(Plan(1, 1, 4))),
    )
    said = []
    for request in requests:
        with pytest.raises(ValueError, match=r"must|needs|cannot") as refused:
            request()
        said.append(str(refused.value))
    pipe.close()
    ready.close()
    return said


def test_what_cannot_be_adapted_is_refused() -> None:
    ((schedule, every, gain, follow),) = run_ranks(1, refusals)
    assert "splits B from W, such as zeropp or zb-v; got '1f1b'" in schedule
    assert "every must be at least 1" in every
    assert "gain must be above 0" in gain
    assert "num_microbatches cannot change while training" in follow
