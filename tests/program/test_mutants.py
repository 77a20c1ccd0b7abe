"""Sound programs with something changed: the verifier accepts exactly those that a machine runs.

1,000 of them, or 17 times as many with `--hypothesis-profile nightly`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from random import Random

import pytest
from hypothesis import settings

from support.machine import runs, sound
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Action, Kind, Order, Program, format_program
from zeropp.ir.action import COMPUTE
from zeropp.ir.precedence import other_end
from zeropp.program import lower, verify, warnings

MUTANTS = 1_000 * settings().max_examples // 300
Orders = list[list[Action]]
Change = Callable[[Orders, Random], None]


def programs() -> Iterator[Program]:
    """Every generator at a few sizes, sharded in every way."""
    for name, P, B in product(sorted(GENERATORS), (1, 2, 3, 4), (2, 5)):
        chunks = GENERATORS[name].chunks
        schedule = generate(Order(name), P, max(chunks) if chunks else 1 + B % 2, B)
        for policy in (None, "unit", "step", "microbatch"):
            yield lower(schedule, policy, max_resident=1 + B % 2)


SOUND = list(programs())


def place(orders: Orders, draw: Random) -> tuple[list[Action], int]:
    """Somewhere in the order of some rank."""
    order = draw.choice([order for order in orders if order])
    return order, draw.randrange(len(order))


def drop(orders: Orders, draw: Random) -> None:
    order, at = place(orders, draw)
    del order[at]


def repeat(orders: Orders, draw: Random) -> None:
    order, at = place(orders, draw)
    order.insert(draw.choice([at, draw.randrange(len(order))]), order[at])


def swap(orders: Orders, draw: Random) -> None:
    order, at = place(orders, draw)
    other = (at + draw.choice([1, 1, 2, 3, draw.randrange(len(order))])) % len(order)
    order[at], order[other] = order[other], order[at]


def move(orders: Orders, draw: Random) -> None:
    order, at = place(orders, draw)
    action = order.pop(at)
    order.insert(max(0, at + draw.choice([-9, -3, -2, -1, 1, 2, 3, 9])), action)


def renumber(orders: Orders, draw: Random) -> None:
    order, at = place(orders, draw)
    kind, stage, m = order[at]
    if m is None or draw.random() < 0.5:
        stage += draw.choice([-1, 1, 2, 99])
    else:
        m += draw.choice([-1, 1, 2, 99])
    order[at] = Action(kind, stage, m)


def rename(orders: Orders, draw: Random) -> None:
    order, at = place(orders, draw)
    alike = [kind for kind in Kind if ("F" in kind) == ("F" in order[at].kind)]
    order[at] = order[at]._replace(kind=draw.choice(alike))


def elsewhere(orders: Orders, draw: Random) -> None:
    order, at = place(orders, draw)
    other = draw.choice(orders)
    other.insert(draw.randrange(len(other) + 1), order.pop(at))


def pair(orders: Orders, draw: Random) -> list[tuple[list[Action], int]]:
    """A SEND and its RECV, or nothing."""
    sends = [(o, i) for o in orders for i, a in enumerate(o) if a.kind.startswith("SEND")]
    if not sends:
        return []
    order, at = draw.choice(sends)
    receive = other_end(order[at])
    return [(order, at), *((o, o.index(receive)) for o in orders if receive in o)]


def drop_pair(orders: Orders, draw: Random) -> None:
    for order, at in pair(orders, draw):
        del order[at]


def repeat_pair(orders: Orders, draw: Random) -> None:
    for order, at in pair(orders, draw):
        order.insert(at + draw.choice([0, 1]), order[at])


def move_pair(orders: Orders, draw: Random) -> None:
    by = draw.choice([-4, -2, -1, 1, 2, 4])
    for order, at in pair(orders, draw):
        order.insert(max(0, at + by), order.pop(at))


def swap_messages(orders: Orders, draw: Random) -> None:
    """Two messages of a channel change places, at both ends."""
    for order, at in pair(orders, draw):
        kind, stage, _ = order[at]
        alike = [i for i, a in enumerate(order) if a[:2] == (kind, stage) and i > at]
        for other in alike[:1]:
            order[at], order[other] = order[other], order[at]


def to_itself(orders: Orders, draw: Random) -> None:
    """A message from a stage to the next, wherever that is."""
    order, at = place(orders, draw)
    send = Action(Kind.SEND_F, order[at].stage, 0)
    order[at:at] = [send, other_end(send)]


def gather_again(orders: Orders, draw: Random) -> None:
    order, at = place(orders, draw)
    stage = order[at].stage
    extra = [Action(kind, stage) for kind in (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE)]
    order[at:at] = draw.choice([extra[:1], extra[1:2], extra[2:], extra[:2], extra])


CHANGES: tuple[Change, ...] = (
    *(drop, repeat, swap, move, renumber, rename, elsewhere),
    *(drop_pair, repeat_pair, move_pair, swap_messages, to_itself, gather_again),
)


def mutant(seed: int) -> tuple[Program, str]:
    """A program with one to three changes, and which."""
    draw = Random(seed)
    program = draw.choice(SOUND)
    orders = [list(order) for order in program.actions]
    changes = draw.choices(CHANGES, k=draw.choice([1, 1, 1, 2, 3]))
    for change in changes:
        change(orders, draw)
    actions = tuple(map(tuple, orders))
    compute = tuple(tuple(a for a in order if a.kind in COMPUTE) for order in orders)
    schedule = replace(program.schedule, actions=compute)
    limit = program.max_resident
    if limit is not None and draw.random() < 0.1:
        limit = draw.choice([1, 2, 3])
    changed = replace(program, schedule=schedule, actions=actions, max_resident=limit)
    return changed, "+".join(change.__name__ for change in changes)


def test_the_machine_runs_what_is_lowered() -> None:
    assert all(sound(program) for program in SOUND)
    assert not any(verify(program) for program in SOUND)
    wasteful = [w for p in SOUND for w in warnings(p) if w.rule == "economy"]
    assert wasteful == []


def test_exactly_the_sound_mutants_are_accepted() -> None:
    judged: Counter[bool] = Counter()
    for seed in range(MUTANTS):
        program, changes = mutant(seed)
        found, right = verify(program), sound(program)
        judged[right] += 1
        why = f"{seed}: {changes}\n{format_program(program)}" + "\n".join(map(str, found))
        assert (not found) == right, why
        if right:
            hangs = not runs(program, blocking=True, holding=True)
            assert hangs == any(w.rule == "rendezvous" for w in warnings(program)), why
    assert min(judged.values()) > MUTANTS // 20, judged


@pytest.mark.parametrize("program", SOUND[:: len(SOUND) // 8], ids=lambda p: p.schedule.name)
def test_each_message_taken_away_or_doubled_is_found(program: Program) -> None:
    for rank, order in enumerate(program.actions):
        for at, action in enumerate(order):
            if action.kind.startswith(("SEND", "RECV")):
                for edited in (order[:at] + order[at + 1 :], order[: at + 1] + order[at:]):
                    actions = (*program.actions[:rank], edited, *program.actions[rank + 1 :])
                    assert verify(replace(program, actions=actions))
