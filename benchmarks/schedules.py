"""Carried ZeroPP and vees against the floor, the drained order, a prototype and every peer.

Run: python benchmarks/schedules.py [--json]; about 8 minutes on two cores.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from support.claim import Figure, Row, run
from zeropp.costs import Costs, floor
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Kind, Order, Program, Schedule, evaluate, peak_slots_per_rank
from zeropp.program.collectives import shard
from zeropp.program.lowering import lower
from zeropp.program.verifier import verify
from zeropp.simulate import simulate

CLAIM = "Carried ZeroPP reaches the floor and is not slower than a peer of equal memory"

Triple = tuple[float, float, float]
TRIPLES: tuple[Triple, ...] = ((1, 1, 1), (1, 1, 0.7), (1, 1, 0.5), (1, 1.3, 0.9))
SHORT_W: Triple = (1, 1, 0.5)
SHORTER_W: Triple = (1, 1, 0.7)
PROTOTYPE = Path(__file__).parents[1] / "tests" / "golden" / "strict_carry.jsonl"
GATHERED = (
    Order("zeropp", slots=23),
    Order("zeropp", 8, "eager", 23),
    Order("zeropp", 8, "drain"),
    Order("breadth-first"),
)
VEES: dict[Triple, dict[int, float]] = {
    (1, 1, 1): {8: 4, 10: 2.2, 13: 1, 15: 0.3},
    SHORTER_W: {8: 7.5, 10: 3.5, 13: 2, 15: 1.5},
    (1, 1.3, 0.9): {8: 10, 10: 3, 13: 2, 15: 1},
}
PEERS = [name for name in GENERATORS if name != "zeropp"]

BELOW = "below the floor of any schedule with this V and the loop placement"
OTHER_V = "another V: as fast with the peer's V and memory"
MEMORY = "memory: as fast with the slots that the peer holds"
PLACEMENT = "placement: a vee keeps a hop on its rank and a slow last stage on rank 0"
UNEXPLAINED = "the search does not find the peer's order"


class Case(NamedTuple):
    """Sizes, costs and, for the last stage, how much slower it is."""

    P: int
    V: int
    B: int
    triple: Triple
    latency: float = 0.0
    last: float = 1.0

    def costs(self, num_chunks: int | None = None) -> Costs:
        """Per stage; with other chunks, the same model and the same slow end of it."""
        V = num_chunks or self.V
        uniform = Costs.uniform(self.P, V, *self.triple, latency=self.latency)
        slower = 1 + (self.last - 1) * V / self.V  # the same extra time, whatever the stage's size
        return uniform.scaled(self.P * V - 1, slower)

    def zeropp(self, V: int | None = None, **knobs: Any) -> Schedule:
        """Made for the costs, by default with the case's V."""
        costs = self.costs(V)
        return generate(Order(**knobs), self.P, V or self.V, self.B, costs=costs)

    def makespan(self, schedule: Schedule) -> float:
        """Evaluated."""
        costs = self.costs(schedule.placement.num_chunks)
        return evaluate(schedule, costs.duration, costs.latency).makespan


def floor_cases() -> Iterator[tuple[str, float, Case, int, int | None]]:
    """Name and target of a figure, and a case of it with its slots and unit."""
    for triple, P, V, k in product(TRIPLES, (2, 4, 8, 16), (2, 4), (2, 4, 8)):
        short = triple == SHORT_W and k == 2
        name, target = (", B=2P, (1,1,0.5)", 2.0) if short else ("", 0.1)
        yield f"U=P, free P2P{name}", target, Case(P, V, k * P, triple), P * V + P - 1, P
    for triple, P, V, k in product(TRIPLES, (2, 4, 8, 16), (2, 4), (4, 6, 8)):
        name, target = ("equal times", 0.5) if triple == (1, 1, 1) else ("other times", 2.0)
        yield f"P2P 0.1, {name}", target, Case(P, V, k * P, triple, 0.1), P * V * 3 // 2, None
    for triple, P, V in product(TRIPLES, (4, 8), (2, 4)):
        short, times = triple == SHORT_W, "(1,1,0.5)" if triple == SHORT_W else "other times"
        for B in (B for B in range(P + 1, 8 * P) if B % P):
            name, target = f"B from P+1 to 2P-1, {times}", 6.5 if short else 3.5
            if B > 2 * P:
                name, target = f"B no multiple of P, above 2P, {times}", 1.6 if short else 0.1
            yield name, target, Case(P, V, B, triple, 0.02), P * V * 3 // 2, None


def floor_figures() -> Iterator[Figure]:
    """How far carried ZeroPP is over the floor, in percent: the worst case of each figure."""
    worst: dict[tuple[str, float], float] = defaultdict(float)
    for name, target, case, slots, U in floor_cases():
        schedule = case.zeropp(unit_size=U, slots=slots)
        if max(peak_slots_per_rank(schedule)) > slots:
            raise AssertionError(f"{case} holds more than {slots} slots")
        over = case.makespan(schedule) / floor(schedule.placement, case.B, case.costs()) - 1
        worst[name, target] = max(worst[name, target], 100 * over)
    yield from (Figure(f"over the floor: {n}", v, target) for (n, target), v in worst.items())


def strict_figures() -> Iterator[Figure]:
    """Strict carry with one resident stage: percent over the floor, gathers and gradients."""
    worst, gathers, unreduced = 0.0, 0, 0
    for P, V, k in product((4, 8, 16), (2, 4, 8), (2, 4, 8)):
        case = Case(P, V, k * P, (1, 1, 1))
        schedule = case.zeropp(unit_size=P, slots=P * V)
        worst = max(worst, over_bound(case, schedule))
        program = shard(schedule, "unit", 1)
        gathers = max(gathers, max(program.count(Kind.UNSHARD)) - 1 - (2 * V - 2) * k)
        gathers = max(gathers, max(program.count(Kind.REDUCE)) - V * k)
        unreduced = max(unreduced, _unreduced(program))
        if max(peak_slots_per_rank(schedule)) > P * V:
            raise AssertionError(f"{case} holds more than {P * V} slots")
    yield Figure("strict, equal times, PV slots: over the floor", worst, 0.01)
    yield Figure("strict, equal times: gathers or reduces beyond the least", gathers, 0, "")
    yield Figure("strict, equal times: unreduced gradients at once", unreduced, 2, "")
    for triple in TRIPLES[1:]:
        case = Case(8, 2, 32, triple)
        schedule = case.zeropp(unit_size=16, slots=31)
        count = max(shard(schedule, "unit", 1).count(Kind.UNSHARD))
        name = f"strict, U=16, 31 slots, {triple}, {count} gathers: over the floor"
        yield Figure(name, over_bound(case, schedule), 0.2)


def prototype_figures() -> Iterator[Figure]:
    """Default carry against a prototype of strict carry, and against eager, over its table."""
    slower, more, than_eager = -100.0, 0, -100.0
    rows = [json.loads(line) for line in PROTOTYPE.read_text("utf-8").splitlines()]
    for row in rows:
        P, V, B, slots = row["P"], row["V"], row["B"], row["slots"]
        forward, backward, weight = (time * V for time in row["costs"])
        case = Case(P, V, B, (forward, backward, weight), row["p2p"])
        made, eager = (case.zeropp(unit_size=P, slots=slots, seam=s) for s in (None, "eager"))
        time = case.makespan(made)
        slower = max(slower, 100 * (time / row["makespan"] - 1))
        than_eager = max(than_eager, 100 * (time / case.makespan(eager) - 1))
        if time >= row["makespan"] * (1 - 1e-6):
            more = max(more, max(shard(made, "unit", 1).count(Kind.UNSHARD)) - row["gathers"])
    yield Figure(f"over the prototype of strict carry ({len(rows)} cases)", slower, 0.1)
    yield Figure("gathers beyond the prototype's, where as fast", more, 0, "")
    yield Figure("over eager carry in the same slots", than_eager, 0.002)


def gather_figures() -> Iterator[Figure]:
    """Gathers that take time, one resident stage: percent over floor and first gather."""
    targets = {(1, 1, 1): (1, 2.5, 4.5, 15), SHORTER_W: (5, 6, 12, 25)}
    for triple, (index, gather) in product(targets, enumerate((1, 2, 4, 8))):
        found = [_with_gathers(order, triple, gather) for order in GATHERED]
        others = f"eager {found[1]:.1f}, drain {found[2]:.1f}, breadth-first {found[3]:.1f}"
        name = f"gathers of {gather} F, {triple}, 23 slots: over the floor ({others})"
        yield Figure(name, found[0], targets[triple][index])


def _with_gathers(order: Order, triple: Triple, gather: float) -> float:
    forward, backward, weight = (2 * time for time in triple)
    costs = Costs.uniform(8, 2, forward, backward, weight, gather=gather)
    schedule = generate(order, 8, 2, 32, costs=costs, max_resident=1)
    program = lower(schedule, "unit", max_resident=1, expected=costs.expected(schedule))
    least = floor(schedule.placement, 32, costs) + gather
    return 100 * (simulate(program, costs).makespan / least - 1)


def vee_figures() -> Iterator[Figure]:
    """Vees below P micro-batches, P=8, B=32: percent over the bound, refined and by events."""
    for triple, targets in VEES.items():
        costs = Costs.uniform(8, 2, *triple)
        for slots, target in targets.items():
            for refine in (True, False):
                order = Order("vee", slots=slots, refine=refine)
                schedule = generate(order, 8, 2, 32, costs=costs)
                time = evaluate(schedule, costs.duration).makespan
                value = 100 * (time / floor(schedule.placement, 32, costs, slots) - 1)
                name = f"vee, {slots} slots, {triple}{', refined' if refine else ', by events'}"
                yield Figure(f"{name}: over the bound", value, target + (not refine))


def over_bound(case: Case, schedule: Schedule) -> float:
    """Percent over the floor."""
    return 100 * (case.makespan(schedule) / floor(schedule.placement, case.B, case.costs()) - 1)


def _unreduced(program: Program) -> int:
    """The most gradients of a rank that wait for their REDUCE at once."""
    most = 0
    for order in program.actions:
        waiting = set[int]()
        for kind, stage, _ in order:
            if kind is Kind.W:
                waiting.add(stage)
            elif kind is Kind.REDUCE:
                waiting.discard(stage)
            most = max(most, len(waiting))
    return most


def drained_figure() -> Figure:
    """At B=P, carried against drained."""
    worst = -100.0
    for triple, P, V, c in product(TRIPLES, (2, 4, 8, 16), (1, 2, 4), (0, 0.02, 0.1, 0.3)):
        case = Case(P, V, P, triple, c)
        carry, drain = (case.makespan(case.zeropp(seam=seam)) for seam in ("carry", "drain"))
        worst = max(worst, (carry / drain - 1) * 100)
    return Figure("over the drained order: B=P", worst, 0.0)


@cache
def peers(P: int, V: int, B: int) -> tuple[tuple[Schedule, float], ...]:
    """Every peer at its own V, with its peak activations in micro-batches through a rank."""
    made = []
    for name in PEERS:
        allowed = GENERATORS[name].chunks
        chunks = V if allowed is None or V in allowed else max(allowed)
        schedule = generate(Order(name), P, chunks, B)
        made.append((schedule, max(peak_slots_per_rank(schedule)) / chunks))
    return tuple(made)


def carried(case: Case, V: int, slots: int) -> float:
    """Makespan of carried ZeroPP with so many chunks and slots, in units of P or one of all."""
    units = [None, case.B] if slots > (V - 1) * case.B else [None]
    return min(case.makespan(case.zeropp(V, unit_size=U, slots=slots)) for U in units)


def slower_than_a_peer(case: Case) -> Row | None:
    """The best peer that holds no less than carried ZeroPP and is faster, if any, and why."""
    own = case.zeropp()
    held, makespan = max(peak_slots_per_rank(own)) / case.V, case.makespan(own)
    every = peers(case.P, case.V, case.B)
    faster = ((case.makespan(peer), peer.name, peak, peer) for peer, peak in every if peak >= held)
    best, name, peak, peer = min(faster, default=(makespan, "", 0.0, own))
    if best >= makespan * (1 - 1e-6):  # ties of rounded times are no gain
        return None
    row = case._asdict() | {"peer": name, "peer V": peer.placement.num_chunks}
    row["slower by %"] = round((makespan / best - 1) * 100, 2)
    least = floor(own.placement, case.B, case.costs())
    return row | {"reason": BELOW if best < least * (1 - 1e-6) else _reason(case, peer, best, peak)}


def _reason(case: Case, peer: Schedule, best: float, peak: float) -> str:
    V = peer.placement.num_chunks
    if carried(case, V, int(peak * V)) <= best * (1 + 1e-6):
        return MEMORY if case.V == V else OTHER_V
    if GENERATORS[peer.name].chunks == frozenset({2}):  # the schedules that are a vee
        return PLACEMENT
    return UNEXPLAINED


def grid() -> list[Case]:
    """P 2 to 16, V 1 to 4, B P to 8P, five cost triples, P2P 0 to 0.3, slow last stages."""
    triples, slow = (*TRIPLES, (1, 2, 1)), (1, 1.25, 1.5)
    small = product((2, 4, 8), (1, 2, 4), (1, 1.5, 2, 4, 8), triples, (0, 0.05, 0.3), slow)
    large = product((16,), (1, 2), (1, 2, 4), triples, (0, 0.1), (1, 1.5))
    return [Case(P, V, int(k * P), *costs) for P, V, k, *costs in (*small, *large)]


def speed_figures() -> Iterator[Figure]:
    """Generate, lower, verify and simulate, in seconds; the best of three for the small one."""
    for (P, V, B), runs, target in (((8, 2, 64), 3, 0.15), ((64, 4, 512), 1, 20.0)):
        costs, taken = Costs.uniform(P, V, gather=0.1), []
        for _ in range(runs):
            start = time.perf_counter()
            program = lower(generate(Order("zeropp"), P, V, B, costs=costs), "unit")
            if verify(program):
                raise AssertionError("the program is not sound")
            simulate(program, costs)
            taken.append(time.perf_counter() - start)
        yield Figure(f"generate to simulate, P={P} V={V} B={B}", min(taken), target, "s")


def measure() -> tuple[list[Row], list[Figure]]:
    """A row for each case in which a peer is faster."""
    figures = [*speed_figures(), *floor_figures(), drained_figure()]
    figures += [*strict_figures(), *prototype_figures(), *gather_figures(), *vee_figures()]
    cases = grid()
    with ProcessPoolExecutor(2) as pool:
        rows = [row for row in pool.map(slower_than_a_peer, cases, chunksize=20) if row]
    unexplained = sum(row["reason"] == UNEXPLAINED for row in rows)
    counted = f"({unexplained} of {len(cases)} cases; {len(rows)} are listed)"
    name = f"slower than a peer of equal or more memory without a reason {counted}"
    return rows, [*figures, Figure(name, 100 * unexplained / len(cases), 0.0)]


if __name__ == "__main__":
    run(CLAIM, measure)
