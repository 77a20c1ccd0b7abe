"""What actions wait for agrees with the simulator's times, and the critical path has no gap."""

import random
from itertools import pairwise

import pytest

from zeropp.costs import Costs
from zeropp.explore.critical import Chains, How, Place, chains_of
from zeropp.explore.explain import explained
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Kind, Order
from zeropp.ir.action import COMPUTE
from zeropp.program import lower
from zeropp.simulate import Report, simulate


def reported(seed: int, host: float = 0.0) -> Report:
    """A random schedule, size, sharding and costs."""
    dice = random.Random(seed)
    generator = GENERATORS[dice.choice(list(GENERATORS))]
    P, B = dice.randint(1, 5), dice.randint(2, 10)
    V = max(generator.chunks) if generator.chunks else dice.randint(1, 3)
    times = [[dice.uniform(0.3, 2) for _ in range(P * V)] for _ in range(6)]
    forward, backward, weight, gather, reduce, transfer = map(tuple, times)
    costs = Costs(
        forward,
        backward,
        weight,
        latency=dice.choice([0.0, 0.2]),
        host=host,
        gather=gather,
        reduce=reduce,
        transfer=transfer,
    )
    schedule = generate(Order(generator.name), P, V, B, costs=costs)
    policy = dice.choice([None, "unit", "step", "microbatch"])
    return simulate(lower(schedule, policy, max_resident=dice.randint(1, V)), costs)


def starts(report: Report, chains: Chains) -> list[tuple[Place, float, float]]:
    """Of every action, when it starts, and the last of its waits."""
    found = []
    for place, span in chains.spans.items():
        wait = chains.decisive(place)
        found.append((place, span.start, 0.0 if wait is None else wait.ready))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_every_action_starts_with_the_last_of_its_waits(seed: int) -> None:
    report = reported(seed)
    chains = chains_of(report)
    assert sum(map(len, report.run.spans)) == len(chains.spans)
    for _, start, ready in starts(report, chains):
        assert start == pytest.approx(ready, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_where_messages_cost_their_ranks_time(seed: int) -> None:
    report = reported(seed, host=0.05)
    chains = chains_of(report)
    for place, start, ready in starts(report, chains):
        if chains.waits[place]:  # else only receives were posted before
            assert start == pytest.approx(ready, abs=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_the_critical_path_goes_from_the_first_to_the_last_without_a_gap(seed: int) -> None:
    report = reported(seed)
    chains = chains_of(report)
    path = chains.critical()
    assert chains.spans[path[0]].start == 0
    assert chains.spans[path[-1]].end == pytest.approx(report.makespan)
    for before, after in pairwise(path):
        wait = chains.decisive(after)
        assert wait is not None
        assert wait.place == before
        assert wait.ready == pytest.approx(chains.spans[after].start)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_shorter_on_the_critical_path_makes_the_step_no_longer(seed: int) -> None:
    """And a compute action that is made longer there makes the step longer, by as much."""
    report = reported(seed)
    chains = chains_of(report)
    stage = next(
        chains.spans[p].action.stage
        for p in chains.critical()
        if chains.spans[p].action.kind is Kind.F
    )
    many = sum(
        chains.spans[p].action == (Kind.F, stage, chains.spans[p].action.microbatch)
        for p in chains.critical()
    )
    costs = report.costs
    longer = list(costs.forward)
    longer[stage] += 0.01
    changed = Costs(**{**vars(costs), "forward": tuple(longer)})
    assert simulate(report.program, changed).makespan >= report.makespan + 0.01 * many - 1e-9


def test_one_forward_one_backward_on_two_ranks_by_hand() -> None:
    """rank 0: F0 F1 .. BW0 .. BW1, rank 1: F0 BW0 F1 BW1, a backward takes 2 and a hop 0.5."""
    costs = Costs.uniform(2, 1, 1.0, 1.0, 1.0, latency=0.5)
    report = simulate(lower(generate(Order("1f1b"), 2, 1, 2)), costs)
    chains = chains_of(report)
    path = [str(chains.spans[place].action) for place in chains.critical()]
    assert path == ["0F0", "0SEND_F0", "1F0", "1BW0", "1F1", "1BW1", "1SEND_B1", "0BW1"]
    assert report.makespan == 1 + 0.5 + 1 + 2 + 1 + 2 + 0.5 + 2
    place = next(p for p, s in chains.spans.items() if str(s.action) == "0BW0")
    told = explained(report, chains, *place)
    assert told["what"] == "0BW0: fused backward of micro-batch 0, stage 0, on rank 0"
    assert told["when"] == "from 5 to 7"
    assert not told["critical"]
    assert [(wait["how"], wait["ready"], wait["decisive"]) for wait in told["waits"]] == [
        ("message", 5.0, True),
        ("order", 2.0, False),
        ("input", 1.0, False),
    ]
    assert told["waits"][0]["text"] == "1SEND_B0 on rank 1 brings its input: ready at 5"


def test_a_gather_is_told_as_what_is_waited_for() -> None:
    costs = Costs.uniform(2, 1, gather=3.0)
    report = simulate(lower(generate(Order("1f1b"), 2, 1, 2), "unit"), costs)
    chains = chains_of(report)
    first = next(p for p, s in chains.spans.items() if str(s.action) == "0F0")
    assert [wait.how for wait in chains.waits[first]] == [How.PARAMETERS]
    assert chains.critical()[0] == (0, 0)
    assert chains.spans[Place(0, 0)].action.kind is Kind.UNSHARD


def test_nothing_is_told_of_what_takes_no_time() -> None:
    report = simulate(lower(generate(Order("1f1b"), 2, 1, 2)), Costs.uniform(2, 1))
    receive = next(at for at, a in enumerate(report.program.actions[1]) if a.kind not in COMPUTE)
    with pytest.raises(ValueError, match=f"explain: rank 1 runs nothing at position {receive}"):
        explained(report, chains_of(report), 1, receive)
