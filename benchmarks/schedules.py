"""Carried ZeroPP against the floor, against the drained order and against every peer.

Run: python benchmarks/schedules.py [--json]; about 8 minutes on two cores.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from typing import NamedTuple

from claim import Figure, parser, report
from zeropp.costs import Costs, floor
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Schedule, evaluate, peak_slots_per_rank
from zeropp.program.lowering import lower
from zeropp.program.verifier import verify
from zeropp.simulate import simulate

CLAIM = "Carried ZeroPP reaches the floor and is not slower than a peer of equal memory"

Triple = tuple[float, float, float]
TRIPLES: tuple[Triple, ...] = ((1, 1, 1), (1, 1, 0.7), (1, 1, 0.5), (1, 1.3, 0.9))
SHORT_W: Triple = (1, 1, 0.5)
UNEXPLAINED = "the search does not find the peer's order"
PEERS = [name for name in GENERATORS if name != "zeropp"]


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


def over_floor(case: Case, slots: int | None, unit_size: int | None = None) -> float:
    """How far carried ZeroPP is over the floor, in percent."""
    costs = case.costs()
    schedule = generate(
        "zeropp", case.P, case.V, case.B, unit_size=unit_size, slots=slots, costs=costs
    )
    if slots is not None and max(peak_slots_per_rank(schedule)) > slots:
        raise AssertionError(f"{case} holds more than {slots} slots")
    made = evaluate(schedule, costs.duration, costs.latency).makespan
    return (made / floor(schedule.placement, case.B, costs) - 1) * 100


def floor_figures() -> Iterator[Figure]:
    """The distance to the floor, worst case of each figure."""
    worst: dict[tuple[str, float], float] = defaultdict(float)
    for triple, P, V, k in product(TRIPLES, (2, 4, 8, 16), (2, 4), (2, 4, 8)):
        short = triple == SHORT_W and k == 2
        key = ("U=P, free P2P" + (", B=2P, (1,1,0.5)" if short else ""), 2.0 if short else 0.1)
        value = over_floor(Case(P, V, k * P, triple), P * V + P - 1, P)
        worst[key] = max(worst[key], value)
    for triple, P, V, k in product(TRIPLES, (2, 4, 8, 16), (2, 4), (4, 6, 8)):
        equal = triple == (1, 1, 1)
        key = ("P2P 0.1, " + ("equal times" if equal else "other times"), 0.5 if equal else 2.0)
        value = over_floor(Case(P, V, k * P, triple, 0.1), P * V * 3 // 2)
        worst[key] = max(worst[key], value)
    for triple, P, V in product(TRIPLES, (4, 8), (2, 4)):
        for B in (B for B in range(P + 1, 8 * P) if B % P):
            key = _uneven_figure(B > 2 * P, triple == SHORT_W)
            value = over_floor(Case(P, V, B, triple, 0.02), P * V * 3 // 2)
            worst[key] = max(worst[key], value)
    yield from (Figure(f"over the floor: {n}", v, target) for (n, target), v in worst.items())


def _uneven_figure(many: bool, short: bool) -> tuple[str, float]:
    times = "(1,1,0.5)" if short else "other times"
    if many:
        return f"B no multiple of P, above 2P, {times}", 1.6 if short else 0.1
    return f"B from P+1 to 2P-1, {times}", 6.5 if short else 3.5


def drained_figure() -> Figure:
    """At B=P, carried against drained."""
    worst = -100.0
    for triple, P, V, c in product(TRIPLES, (2, 4, 8, 16), (1, 2, 4), (0, 0.02, 0.1, 0.3)):
        costs = Case(P, V, P, triple, c).costs()
        spans = [
            evaluate(
                generate("zeropp", P, V, P, seam=seam, costs=costs), costs.duration, c
            ).makespan
            for seam in ("carry", "drain")
        ]
        worst = max(worst, (spans[0] / spans[1] - 1) * 100)
    return Figure("over the drained order: B=P", worst, 0.0)


@cache
def peers(P: int, V: int, B: int) -> tuple[tuple[Schedule, float], ...]:
    """Every peer at its own V, with its peak activations in micro-batches through a rank."""
    made = []
    for name in PEERS:
        allowed = GENERATORS[name].chunks
        chunks = V if allowed is None or V in allowed else max(allowed)
        schedule = generate(name, P, chunks, B)
        made.append((schedule, max(peak_slots_per_rank(schedule)) / chunks))
    return tuple(made)


def carried(case: Case, chunks: int, slots: int) -> float:
    """Makespan of carried ZeroPP with so many chunks and slots, in units of P or one of all."""
    costs = case.costs(chunks)
    units = [None, case.B] if (chunks - 1) * case.B < slots else [None]
    return min(
        evaluate(
            generate("zeropp", case.P, chunks, case.B, unit_size=U, slots=slots, costs=costs),
            costs.duration,
            costs.latency,
        ).makespan
        for U in units
    )


def slower_than_a_peer(case: Case) -> dict[str, object] | None:
    """The best peer that holds no less than carried ZeroPP and is faster, if any, and why."""
    costs = case.costs()
    own = generate("zeropp", case.P, case.V, case.B, costs=costs)
    held = max(peak_slots_per_rank(own)) / case.V
    makespan = evaluate(own, costs.duration, costs.latency).makespan
    spans = [
        (
            evaluate(peer, case.costs(chunks).duration, case.latency).makespan,
            peer.name,
            chunks,
            peak,
        )
        for peer, peak in peers(case.P, case.V, case.B)
        for chunks in (peer.placement.num_chunks,)
        if peak >= held
    ]
    best, name, chunks, peak = min(spans, default=(makespan, "", 0, 0.0))
    if best >= makespan * (1 - 1e-6):  # ties of rounded times are no gain
        return None
    row = case._asdict() | {"peer": name, "peer V": chunks}
    row["slower by %"] = round((makespan / best - 1) * 100, 2)
    return row | {"reason": _reason(case, best, name, chunks, peak)}


def _reason(case: Case, best: float, name: str, chunks: int, peak: float) -> str:
    loop = generate("zeropp", case.P, case.V, case.B, costs=case.costs()).placement
    if best < floor(loop, case.B, case.costs()) * (1 - 1e-6):
        return "below the floor of any schedule with this V and the loop placement"
    slots = int(peak * chunks)
    near = best * (1 + 1e-6)
    if chunks != case.V and carried(case, chunks, slots) <= near:
        return "another V: as fast with the peer's V and memory"
    if chunks == case.V and carried(case, chunks, slots) <= near:
        return "memory: as fast with the slots that the peer holds"
    if GENERATORS[name].chunks == frozenset({2}):  # the schedules that are a vee
        return "placement: a vee keeps a hop on its rank and a slow last stage on rank 0"
    return UNEXPLAINED


def grid() -> list[Case]:
    """P 2 to 16, V 1 to 4, B P to 8P, five cost triples, P2P 0 to 0.3, slow last stages."""
    triples = (*TRIPLES, (1, 2, 1))
    small = product(
        (2, 4, 8), (1, 2, 4), (1, 1.5, 2, 4, 8), triples, (0, 0.05, 0.3), (1, 1.25, 1.5)
    )
    large = product((16,), (1, 2), (1, 2, 4), triples, (0, 0.1), (1, 1.5))
    return [
        Case(P, V, int(k * P), triple, c, last) for P, V, k, triple, c, last in (*small, *large)
    ]


def speed_figures() -> Iterator[Figure]:
    """Generate, lower, verify and simulate, in seconds; the best of three for the small one."""
    for (P, V, B), runs, target in (((8, 2, 64), 3, 0.15), ((64, 4, 512), 1, 20.0)):
        seconds = min(_seconds(P, V, B) for _ in range(runs))
        yield Figure(f"generate to simulate, P={P} V={V} B={B}", seconds, target, "s")


def _seconds(P: int, V: int, B: int) -> float:
    start = time.perf_counter()
    costs = Costs.uniform(P, V, gather=0.1)
    program = lower(generate("zeropp", P, V, B, costs=costs), "unit")
    if verify(program):
        raise AssertionError("the program is not sound")
    simulate(program, costs)
    return time.perf_counter() - start


def main() -> int:
    """Measure and report."""
    wanted = parser(CLAIM).parse_args()
    figures = [*speed_figures(), *floor_figures(), drained_figure()]
    cases = grid()
    with ProcessPoolExecutor(2) as pool:
        rows = [row for row in pool.map(slower_than_a_peer, cases, chunksize=20) if row]
    unexplained = [row for row in rows if row["reason"] == UNEXPLAINED]
    share = 100 * len(unexplained) / len(cases)
    counted = f"({len(unexplained)} of {len(cases)} cases; {len(rows)} are listed)"
    name = f"slower than a peer of equal or more memory without a reason {counted}"
    figures.append(Figure(name, share, 0.0))
    for reason in sorted({row["reason"] for row in rows}, key=str):
        print(f"{sum(row['reason'] == reason for row in rows):4} cases: {reason}", file=sys.stderr)
    return report(CLAIM, rows, figures, wanted)


if __name__ == "__main__":
    sys.exit(main())
