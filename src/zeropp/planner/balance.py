"""Layer balance: cut a list of blocks into P x V stages so that the slowest rank is fastest.

    blocks     E  L  L  L  L  L  L  L  L  H          H takes as long as two L, E nothing
    loop P=2 V=2   stages 0 1 2 3 on ranks 0 1 0 1
               EL LL | LLL | LL | LH                 rank 0: 5 L, rank 1: 5 L

Where all blocks but the first and the last are alike, as in most models, layers are handed out one
by one to the rank that then is fastest, which is exact. Otherwise it is a dynamic program over the
stages. Its state is how many blocks are used, and the time of every rank that has stages to come;
of states that agree in both, the one with the fastest slowest rank is kept.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from zeropp.ir.placement import Placement

_WIDTH = 4_000  # states kept after a stage; a dozen unlike blocks stay below it


class Balance(NamedTuple):
    """A cut of the blocks."""

    split: tuple[int, ...]  # blocks in each stage
    slowest: float  # time of the slowest rank
    exact: bool = True  # no cut is better; False where more states came up than are kept


def balance(times: Sequence[float], placement: Placement) -> Balance:
    """Cut blocks that take `times` (F, B and W of one micro-batch each) into stages.

    Of equally slow cuts, earlier ranks and, within a rank, later stages get more.

    Raises:
        ValueError: fewer blocks than stages.
    """
    stages = placement.num_stages
    if len(times) < stages:
        raise ValueError(
            f"the model has {len(times)} blocks, fewer than pp_size x num_chunks = {stages} stages"
        )
    if stages == 1:
        return Balance((len(times),), sum(times))
    if len(set(times[1:-1])) > 1:
        return _by_states(times, placement)
    split = _alike(times, placement)
    return Balance(split, slowest_rank(times, split, placement))


def slowest_rank(times: Sequence[float], split: Sequence[int], placement: Placement) -> float:
    """Time of the slowest rank under a split."""
    loads = [0.0] * placement.pp_size
    before = [0.0, *accumulate(times)]
    first = 0
    for stage, size in enumerate(split):
        loads[placement.rank_of(stage)] += before[first + size] - before[first]
        first += size
    return max(loads)


def _alike(times: Sequence[float], placement: Placement) -> tuple[int, ...]:
    """Hand out equal layers; stage 0 has the first block already, the last stage the last."""
    last = placement.num_stages - 1
    layers, one = len(times) - 2, times[1] if len(times) > 2 else 0.0
    stage_time = [one] * (last + 1)
    stage_time[0], stage_time[last] = times[0], times[-1]
    count = [0 if stage in (0, last) else 1 for stage in range(last + 1)]
    load = [sum(stage_time[s] for s in placement.stages_of(p)) for p in range(placement.pp_size)]
    for _ in range(layers - sum(count)):
        rank = min(range(placement.pp_size), key=lambda p: (load[p], p))
        stage = min(placement.stages_of(rank), key=lambda s: (stage_time[s], -s))
        load[rank] += one
        stage_time[stage] += one
        count[stage] += 1
    return tuple(n + (stage in (0, last)) for stage, n in enumerate(count))


_State = tuple[int, tuple[float, ...]]  # blocks used; loads, 0 for ranks whose stages are all cut
_Found = tuple[float, tuple[int, ...]]  # the slowest of the ranks so far, and the split


def _by_states(times: Sequence[float], placement: Placement) -> Balance:
    before = [0.0, *accumulate(times)]
    total, stages = len(times), placement.num_stages
    final = {placement.rank_of(s): s for s in range(stages)}
    states: dict[_State, _Found] = {(0, (0.0,) * placement.pp_size): (0.0, ())}
    exact = True
    for stage in range(stages):
        rank, later = placement.rank_of(stage), stages - 1 - stage
        reached: dict[_State, _Found] = {}
        for (used, loads), (slowest, split) in states.items():
            sizes = range(1, total - used - later + 1) if later else (total - used,)
            for size in sizes:
                load = loads[rank] + before[used + size] - before[used]
                kept = 0.0 if final[rank] == stage else load
                state = used + size, (*loads[:rank], kept, *loads[rank + 1 :])
                found = max(slowest, load), (*split, size)
                if state not in reached or found[0] < reached[state][0]:
                    reached[state] = found
        exact = exact and len(reached) <= _WIDTH
        states = reached if len(reached) <= _WIDTH else _narrowed(reached, before)
    slowest, split = min(states.values())
    return Balance(split, slowest, exact)


def _narrowed(states: dict[_State, _Found], before: list[float]) -> dict[_State, _Found]:
    """The states whose slowest rank is nearest to an equal share of what is used."""

    def badness(item: tuple[_State, _Found]) -> tuple[float, float]:
        (used, _), (slowest, _) = item
        return slowest / max(before[used], 1e-12) * before[-1], slowest

    return dict(sorted(states.items(), key=badness)[:_WIDTH])
