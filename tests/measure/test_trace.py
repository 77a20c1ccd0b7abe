"""A measured step: spans of every rank, and idle time by cause that sums to the makespan."""

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from support.features import loss_sum, stack
from support.ranks import run_ranks
from zeropp.build import pipeline, program_of
from zeropp.costs import Costs
from zeropp.ir import Action, Kind, Placement, Shape
from zeropp.ir.cause import Cause
from zeropp.measure.trace import Measured, Trace, measured
from zeropp.plan import Plan
from zeropp.program import without_collectives
from zeropp.runtime.executor import Phase
from zeropp.runtime.grid import pipelines
from zeropp.show import show
from zeropp.simulate import simulate


class Slow(nn.Module):
    """Takes 30 ms."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta:
            time.sleep(0.03)
        return x * 1.0


def one_step(plan: Plan) -> Measured:
    blocks = stack(Slow)
    pipe = pipeline(blocks, loss_sum, plan)
    tokens = torch.arange(5 * 2 * plan.num_microbatches).view(-1, 5) % 11
    trace = Trace(pipe.device)
    pipe.step((tokens, tokens), observer=trace)
    result = trace.gather(pipe.placement, "measured", pipelines(pipe.mesh)[0])
    pipe.close()
    return result


def test_a_step_is_measured_on_every_rank(tmp_path: Path) -> None:
    plan = Plan(2, 1, 4, "1f1b")
    first, second = run_ranks(2, one_step, plan)
    assert first == second
    timeline = first.timeline
    assert (
        tuple(tuple(s.action for s in rank) for rank in timeline.spans)
        == program_of(plan).schedule.actions
    )
    for rank in range(2):
        total = timeline.busy(rank) + sum(first.idle[rank].values())
        assert total == pytest.approx(timeline.makespan)
    assert first.idle[1][Cause.RAMP] > 60  # three slow blocks and the table before it, in ms
    assert first.idle[0][Cause.PEER] > 60
    assert 0 < sum(first.idle_ratios().values()) < 1

    costs = Costs.uniform(2, 1, 90.0, 1.0, 1.0)
    predicted = simulate(without_collectives(program_of(plan)), costs).timeline
    show([predicted, timeline], tmp_path / "both.json")
    events = json.loads((tmp_path / "both.json").read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e.get("name") == "process_name"}
    assert len(names) == 2
    assert "measured" in names


def test_gathers_that_come_late_are_a_cause_of_their_own() -> None:
    placement, action = Placement(Shape.LOOP, 1, 1), Action(Kind.F, 0, 0)
    later = Action(Kind.B, 0, 0)
    phases = [Phase.BEGIN, Phase.INPUT, Phase.PARAMETERS, Phase.COMPUTE]
    marks = [
        *((action, phase, at) for phase, at in zip(phases, (0.0, 1.0, 2.0, 5.0), strict=True)),
        *((later, phase, at) for phase, at in zip(phases, (6.0, 8.0, 11.0, 15.0), strict=True)),
    ]
    result = measured([marks], placement, "measured")
    assert [(s.start, s.end) for s in result.timeline.spans[0]] == [(2.0, 5.0), (11.0, 15.0)]
    idle = {cause: time for cause, time in result.idle[0].items() if time}
    assert idle == {Cause.HOST: 1.0, Cause.PEER: 2.0, Cause.GATHER: 3.0}
