"""A real GPT over two ranks, one thread each: our runtime against torch.distributed.pipelining's.

Run: python benchmarks/real.py [--json]; about eight minutes on two cores.

Weights, batch, cut into stages, loss and gradients are equal, which is checked against plain
PyTorch. Every rank has a core of its own, as under `zeropp train`. Orders that can follow the
measured times do so, as `zeropp train` lets them.

torch's schedules run in turn for a few rounds; its fastest then run a final with all of ours, of
many rounds, by which the claim goes: ratios are of the same round. In a round a side runs two
steps, of which the second is timed, since the first still takes its memory from the system anew.

`most_possible` is what a pipeline without any idle time, or any cost of its own, would reach over
the same side: each rank's half of the model by itself, in plain PyTorch. Peak memory is read in
fresh processes, above what they held with their weights.
"""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from statistics import median, quantiles
from typing import NamedTuple

import torch
import torch.distributed as dist

from support.claim import Figure, Row, run
from support.gpt import Alone, Task, adapt, require_equal
from support.memory import ALLOCATOR, grown
from support.ranks import run_ranks
from support.sides import Running, Side, forget_gradients, seconds, shares, torch_sides, trace_of
from support.torch_runtime import PEERS, Batch
from zeropp.ir.model import GPTConfig

CLAIM = "A real GPT over two ranks, against torch's runtime"

P, ROUNDS, FINAL = 2, 6, 22
CONFIG = GPTConfig(vocab_size=256, seq_len=128, layers=8, hidden=256, heads=4)
TASKS = tuple(Task(CONFIG, B, samples=2) for B in (P, 2 * P))
Seconds = dict[Side | None, list[float]]  # by round; None: each rank's half of the model alone
Peaks = dict[Side, float]  # MiB


class Timed(NamedTuple):
    """What one rank measured: torch's sides, the final, and where the time of ours goes."""

    rounds: Seconds
    final: Seconds
    shares: dict[Side, dict[str, float]]


def sides(task: Task) -> list[Side]:
    """Our orders, of torch's runtime all, and two of torch's orders in our runtime."""
    ours = [Side("zeropp", V, "carry") for V in (1, 2, 4)] + [Side("zeropp", 2, "drain")]
    vees = [Side("zb-v", 2, slots=2 * P + 1), Side("dualpipe-v", 2)]
    return ours + vees[: 1 if task.B < 2 * P else 2] + torch_sides(P, task.B, (2, 4))


def run_sides(task: Task) -> Timed:
    """On one rank: the seconds of every side, after its gradients were checked."""
    loss, gradients = task.plain_step()
    batch = task.batch()
    running = {side: task.start(side) for side in sides(task)}
    for side, one in running.items():
        one.step(batch)  # makes buffers, and has torch infer shapes
        adapt(side, one, batch)
        require_equal(side, one, batch, loss, gradients)
    alone = Alone(task)
    alone.step(batch)
    ours = {side: one for side, one in running.items() if side.ours}
    theirs = {side: one for side, one in running.items() if not side.ours}
    rounds = _in_turn(batch, {**theirs, None: alone}, ROUNDS)
    agreed = [_fastest_few(rounds)]
    dist.broadcast_object_list(agreed)
    chosen = {side: theirs[side] for side in agreed[0]}
    final = _in_turn(batch, {**ours, **chosen, None: alone}, FINAL)
    where = {}
    for side, one in running.items():
        one.step(batch)
        trace = trace_of(one)
        one.step(batch, observer=trace)
        where[side] = shares(one, trace)
        one.close()
    return Timed(rounds, final, where)


def _in_turn(batch: Batch, running: Mapping[Side | None, Running | Alone], rounds: int) -> Seconds:
    taken: Seconds = {side: [] for side in running}
    for _ in range(rounds):
        for side, one in running.items():
            forget_gradients(one.modules)
            one.step(batch)
            forget_gradients(one.modules)
            taken[side].append(seconds(partial(one.step, batch)))
    return taken


def _fastest_few(rounds: Seconds) -> list[Side]:
    """By their best round, the three fastest, and the fastest whose stages go round."""
    by_time = sorted(filter(None, rounds), key=lambda side: min(rounds[side]))
    return list(dict.fromkeys([*by_time[:3], next(filter(_goes_round, by_time))]))


def _goes_round(side: Side) -> bool:
    return not PEERS[side.name].vee


def peak_of(task: Task, side: Side) -> float:
    """On one rank: the most MiB of a side's steps above what the process held with its weights."""
    running, batch = task.start(side), task.batch()
    torch.ones(1, requires_grad=True).sum().backward()  # autograd's own first needs are met

    def steps() -> None:
        adapt(side, running, batch)
        for _ in range(3):
            forget_gradients(running.modules)
            running.step(batch)

    most = grown(steps)
    running.close()
    return most


def measure() -> tuple[list[Row], list[Figure]]:
    """First all times, then all peaks."""
    timed = [run_ranks(P, run_sides, task, timeout=500, own_cores=True)[0] for task in TASKS]
    os.environ.update(ALLOCATOR)  # the ranks that start from here on have it
    listed: list[Row] = []
    claims: list[Figure] = []
    for task, times in zip(TASKS, timed, strict=True):
        peaks = {side: max(run_ranks(P, peak_of, task, side)) for side in sides(task)}
        listed += rows(task, times, peaks)
        claims += figures(task, times.final, peaks)
    return listed, claims


def rows(task: Task, times: Timed, peaks: Peaks) -> Iterator[Row]:
    """One for each of torch's sides in the first rounds, then one for each in the final."""
    own = times.final[fastest(times.final, ours=True)]
    for rounds, taken in ((ROUNDS, times.rounds), (FINAL, times.final)):
        for side in filter(None, taken):
            row: Row = {"B": task.B, "rounds": rounds, "schedule": side.title, "V": side.V}
            speed = round(task.tokens / median(taken[side]))
            row |= {"tokens_per_s": speed, "peak_MiB": round(peaks[side], 1)}
            possible = median(_ratios(taken[None], taken[side]))
            row |= {"most_possible": round(possible, 3), "shares": times.shares[side]}
            if rounds == FINAL:
                low, middle, high = quantiles(_ratios(own, taken[side]), n=4)
                row |= {"our_best_over_it": round(middle, 3)}
                row |= {"quartiles": f"{low:.3f} to {high:.3f}"}
            yield row


def figures(task: Task, final: Seconds, peaks: Peaks) -> Iterator[Figure]:
    """Our fastest against the fastest of torch's, and of those of torch's whose stages go round."""
    own = fastest(final, ours=True)
    for kind, loops in (("", False), (" that goes round", True)):
        best = fastest(final, ours=False, loops=loops)
        mine, other = f"our {own.title} V={own.V}", f"{best.name} V={best.V}"
        name = f"B={task.B} {mine} over torch's best{kind}, {other}"
        speed = median(_ratios(final[own], final[best]))
        yield Figure(f"{name}: tokens/s", speed, 1.05, "times", at_least=True)
        yield Figure(f"{name}: peak memory", peaks[own] / peaks[best], 1.0, "times")


def fastest(taken: Seconds, *, ours: bool, loops: bool = False) -> Side:
    """Of one runtime, or of those of torch's whose stages go round."""
    either = [side for side in filter(None, taken) if side.ours == ours]
    wanted = filter(_goes_round, either) if loops else either
    return min(wanted, key=lambda side: median(taken[side]))


def _ratios(own: list[float], other: list[float]) -> list[float]:
    return [b / a for a, b in zip(own, other, strict=True)]


if __name__ == "__main__":
    run(CLAIM, measure)
