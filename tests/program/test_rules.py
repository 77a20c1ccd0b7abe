"""Every rule accepts a sound program and rejects one that is broken in its way."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from zeropp.generate import generate
from zeropp.ir import Action, Kind, Order, Program, Schedule, format_program, parse
from zeropp.program import warnings
from zeropp.program.derived import forward_only, forward_only_program
from zeropp.program.lowering import lower
from zeropp.program.verifier import InvalidProgramError, require_valid, verify
from zeropp.program.within import verify_within

SCHEDULE = generate(Order("zeropp", unit_size=2, seam="drain"), 2, 2, 4)
PROGRAM = lower(SCHEDULE, "unit", max_resident=1)


def rules(subject: Schedule | Program, slots: int | None = None) -> set[str]:
    return {violation.rule for violation in verify_within(subject, slots)}


def edited(rank: int, edit: Callable[[list[Action]], None], of: Program = PROGRAM) -> Program:
    orders = [list(order) for order in of.actions]
    edit(orders[rank])
    return replace(of, actions=tuple(map(tuple, orders)))


def reordered(rank: int, edit: Callable[[list[Action]], None]) -> Schedule:
    orders = [list(order) for order in SCHEDULE.actions]
    edit(orders[rank])
    return replace(SCHEDULE, actions=tuple(map(tuple, orders)))


def swap(first: Action, second: Action) -> Callable[[list[Action]], None]:
    def edit(order: list[Action]) -> None:
        a, b = order.index(first), order.index(second)
        order[a], order[b] = order[b], order[a]

    return edit


def test_sound_programs_are_accepted() -> None:
    assert verify(SCHEDULE) == ()
    assert verify_within(PROGRAM, slots=4) == ()
    assert require_valid(PROGRAM) is PROGRAM


@pytest.mark.parametrize(
    "edit",
    [
        lambda order: order.pop(),
        lambda order: order.append(order[0]),
        lambda order: order.append(Action(Kind.F, 9, 0)),
        lambda order: order.append(Action(Kind.F, 0, 7)),
        lambda order: order.append(Action(Kind.F, 1, 0)),
    ],
    ids=["missing", "repeated", "no such stage", "no such microbatch", "wrong rank"],
)
def test_complete(edit: Callable[[list[Action]], None]) -> None:
    assert "complete" in rules(reordered(0, edit))


def test_precedence_of_compute() -> None:
    broken = reordered(0, swap(Action(Kind.B, 2, 0), Action(Kind.W, 2, 0)))
    (violation,) = verify(broken)
    assert violation.rule == "precedence"
    assert "rank 0" in str(violation)
    assert "[2W0]" in str(violation)


def test_precedence_of_messages() -> None:
    late = swap(Action(Kind.RECV_F, 1, 0), Action(Kind.F, 1, 0))
    with pytest.raises(ValueError, match="precedence"):
        require_valid(lower_with(late))


def lower_with(edit: Callable[[list[Action]], None]) -> Program:
    program = lower(generate(Order("1f1b"), 2, 1, 2))
    orders = [list(order) for order in program.actions]
    edit(orders[1])
    return Program(program.schedule, tuple(map(tuple, orders)))


def test_channels() -> None:
    broken = edited(1, swap(Action(Kind.RECV_F, 1, 0), Action(Kind.RECV_F, 1, 1)))
    assert "channels" in rules(broken)


def test_deadlock_of_compute() -> None:
    waits = reordered(0, swap(Action(Kind.F, 2, 1), Action(Kind.B, 2, 0))).actions[0]
    for_it = reordered(1, swap(Action(Kind.B, 3, 0), Action(Kind.F, 3, 1))).actions[1]
    assert rules(replace(SCHEDULE, actions=(waits, for_it))) == {"deadlock"}


def test_deadlock_of_blocking_sends() -> None:
    program = lower(generate(Order("1f1b"), 2, 1, 4))

    def post_late(order: list[Action]) -> None:
        order.remove(Action(Kind.RECV_B, 0, 0))
        order.insert(order.index(Action(Kind.BW, 0, 0)), Action(Kind.RECV_B, 0, 0))

    def post_later(order: list[Action]) -> None:
        order.remove(Action(Kind.RECV_F, 1, 1))
        order.insert(order.index(Action(Kind.F, 1, 1)), Action(Kind.RECV_F, 1, 1))
        order.remove(Action(Kind.RECV_F, 1, 2))
        order.insert(order.index(Action(Kind.F, 1, 2)), Action(Kind.RECV_F, 1, 2))

    assert rules(edited(1, post_later, edited(0, post_late, program))) == {"deadlock"}


def test_deadlock_of_receives_that_hold() -> None:
    """Posted before the action that its sender waits for, a receive stops a GPU, and no CPU."""
    program = lower(generate(Order("1f1b"), 2, 1, 4))

    def post_early(order: list[Action]) -> None:
        order.remove(Action(Kind.RECV_B, 0, 0))
        order.insert(order.index(Action(Kind.F, 0, 0)), Action(Kind.RECV_B, 0, 0))

    (found,) = {violation.message for violation in verify(edited(0, post_early, program))[:1]}
    assert found == "0RECV_B0 waits for ever for 1SEND_B0 where posted receives hold, as on a GPU"


def test_slots() -> None:
    assert rules(SCHEDULE, slots=3) == {"slots"}


def test_residency() -> None:
    assert "residency" in rules(edited(0, lambda order: order.remove(Action(Kind.UNSHARD, 0))))
    assert rules(replace(lower(SCHEDULE, "step"), max_resident=1)) == {"residency"}


def test_gathered_stages_are_freed_and_known_before_they_are_reduced() -> None:
    def never_freed(order: list[Action]) -> None:
        order.remove(Action(Kind.RESHARD, 2))

    def reduced_first(order: list[Action]) -> None:
        order.insert(0, Action(Kind.REDUCE, 2))

    at_once = lower(SCHEDULE, "step", max_resident=2)
    assert rules(edited(0, never_freed, at_once)) == {"residency"}
    assert rules(edited(0, reduced_first)) == {"residency"}


def test_every_gradient_is_reduced() -> None:
    def never_reduced(order: list[Action]) -> None:
        order.reverse()
        order.remove(Action(Kind.REDUCE, 0))
        order.reverse()

    assert rules(edited(0, never_reduced)) == {"reduced"}


@pytest.mark.parametrize("message", ["0SEND_F1", "1RECV_F1", "0SEND_F1 1RECV_F1"])
def test_a_message_comes_once(message: str) -> None:
    program = lower(generate(Order("1f1b"), 2, 1, 4))
    for one in message.split():
        action = Action(Kind[one[1:-1]], int(one[0]), 1)
        program = edited(
            action.stage, lambda order, a=action: order.insert(order.index(a), a), program
        )
    found = verify(program)
    assert {violation.message for violation in found} == {
        f"{one} runs 2 times, not once" for one in message.split()
    }


def test_a_message_goes_from_rank_to_rank() -> None:
    text = format_program(lower(generate(Order("breadth-first"), 1, 2, 1)))
    program = parse(text.replace("0F0 1F0", "1RECV_F0 0F0 0SEND_F0 1F0"))
    assert isinstance(program, Program)
    assert [violation.message for violation in verify(program)] == [
        f"{action} is between stages that do not both exist, or are on one rank"
        for action in ("1RECV_F0", "0SEND_F0")
    ]


def test_collectives_are_of_the_ranks_own_stages_and_of_a_program_that_is_sharded() -> None:
    gathers = Action(Kind.UNSHARD, 1)
    assert rules(edited(0, lambda order: order.insert(0, gathers))) == {"complete"}
    bare = lower(SCHEDULE)
    assert rules(edited(1, lambda order: order.insert(0, gathers), bare)) == {"complete"}


@pytest.mark.parametrize(
    "change", [{"shard": "banana"}, {"max_resident": 0}, {"split": (1, 1, 1, 0)}]
)
def test_headers_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))} must"):
        replace(PROGRAM, **change)


WASTE: dict[str, Callable[[list[Action]], None]] = {
    "gathers a stage that is gathered": lambda order: order.insert(0, Action(Kind.UNSHARD, 0)),
    "frees a stage that is not gathered": lambda order: order.insert(0, Action(Kind.RESHARD, 0)),
    "frees a stage that nothing used": lambda order: order.extend(
        [Action(Kind.UNSHARD, 0), Action(Kind.RESHARD, 0)]
    ),
    "reduces no new gradient": lambda order: order.append(Action(Kind.REDUCE, 2)),
}


@pytest.mark.parametrize("waste", WASTE)
def test_waste_is_sound_and_warned_of(waste: str) -> None:
    program = require_valid(edited(0, WASTE[waste]))
    (found,) = warnings(program)
    assert found.rule == "economy"
    assert found.message.endswith(waste)


def test_what_hangs_where_sends_block_and_receives_hold_at_once_is_said() -> None:
    assert warnings(lower(generate(Order("1f1b"), 2, 1, 4))) == ()
    (found,) = warnings(lower(generate(Order("v-half"), 2, 2, 4)))
    assert (found.rule, found.rank) == ("rendezvous", 0)
    assert found.message.startswith("0SEND_F1 waits for ever for 1RECV_F1 where sends block and")


def test_errors_list_the_violations() -> None:
    with pytest.raises(InvalidProgramError, match=r"complete: rank 0, position 0: 1UNSHARD"):
        require_valid(edited(0, lambda order: order.insert(0, Action(Kind.UNSHARD, 1))))


@pytest.mark.parametrize("policy", [None, "unit", "step", "microbatch"])
def test_forward_only_programs_are_sharded_as_the_one_they_are_like(policy: str | None) -> None:
    like = lower(SCHEDULE, policy, max_resident=1)
    program = forward_only_program(like, 3)
    assert program.schedule == forward_only(like.placement, 3)
    assert (program.shard, program.max_resident) == (like.shard, like.max_resident)
    gathers = 0 if policy is None else 2
    assert program.count(Kind.UNSHARD) == (gathers, gathers)
    with pytest.raises(ValueError, match="units must be positive"):
        forward_only_program(like, 0)


def test_programs_round_trip_and_unknown_text_is_refused() -> None:
    assert parse(format_program(PROGRAM)) == PROGRAM
    with pytest.raises(ValueError, match="line 8: unknown action '0X1'"):
        parse(format_program(PROGRAM).replace("shard: unit", "rank 0: 0X1"))


def test_generating_loads_no_torch() -> None:
    code = "import sys, zeropp.planner, zeropp.build; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
