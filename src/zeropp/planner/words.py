"""Reasons in words: why a plan won, what limits it, and whether pipelining pays."""

from collections.abc import Iterator
from typing import NamedTuple

from zeropp.ir.program import Recompute
from zeropp.planner.problem import Problem
from zeropp.planner.search import Candidate

_HARDLY_ANY = 0.05  # of the compute: W's that fill no bubble
_NONE_FITS = "no plan that fits was found within 1.5 times the step."


class Rival(NamedTuple):
    """The best found of a family; None: nothing that fits within 1.5 times the winner's step."""

    name: str
    best: Candidate | None

    @property
    def step_s(self) -> float:
        """Seconds of a step; infinite if there is none."""
        return self.best.step_s if self.best is not None else float("inf")


def reasons(problem: Problem, best: Candidate, rivals: tuple[Rival, ...]) -> tuple[str, ...]:
    """One sentence each."""
    return (
        _pipelining(best, rivals),
        *(_against(best, rival) for rival in rivals),
        _limit(best),
        _memory(problem, best),
        *_cautions(best),
    )


def _parts(candidate: Candidate) -> dict[str, float]:
    """A step in seconds, as the mean over ranks of what they do or wait for."""
    idle = candidate.prediction.idle_s
    return {
        "compute": candidate.step_s - sum(idle.values()),
        "bubble": idle["ramp"] + idle["peer"] + idle["tail"],
        "exposed gathers and reductions": idle["gather"] + idle["memory"] + idle["reduce"],
        "messages": idle["host"],
        "optimizer": idle["optimizer"],
    }


def _pipelining(best: Candidate, rivals: tuple[Rival, ...]) -> str:
    pipelined = best.priced.layout.pp_size > 1
    without = ("plain FSDP", "FSDP in units")
    others = (rival for rival in rivals if (rival.name in without) == pipelined)
    nearest = min(others, key=lambda rival: rival.step_s)
    verdict = "Pipelining pays" if pipelined else "Pipelining does not pay"
    contrary = "without it" if pipelined else "with it"
    if nearest.best is None:
        return f"{verdict}: {contrary}, {_NONE_FITS}"
    more = nearest.step_s / best.step_s - 1
    return f"{verdict}: the best {contrary} ({nearest.name}) takes {more:.1%} longer."


def _against(best: Candidate, rival: Rival) -> str:
    if rival.best is None:
        return f"{rival.name}: {_NONE_FITS}"
    more = rival.step_s / best.step_s - 1
    own, other = _parts(best), _parts(rival.best)
    cause = max(own, key=lambda name: other[name] - own[name])
    amount = f"{other[cause] - own[cause]:+.3g} s {cause}"
    if cause == "compute" and _recompute(rival.best) != _recompute(best):
        amount += f", as it recomputes {_recompute(rival.best)}"
    return f"{rival.name}: {rival.step_s:.3g} s, {more:.1%} more ({amount})."


def _recompute(candidate: Candidate) -> str:
    how = candidate.priced.layout.setting.recompute
    names = {Recompute.NONE: "nothing", Recompute.FULL: "everything"}
    return names.get(how, "all but products and attention")


def _limit(best: Candidate) -> str:
    shares = {name: time / best.step_s for name, time in _parts(best).items()}
    listed = [f"{name} {share:.1%}" for name, share in shares.items() if share >= 0.001]
    limit = max(shares, key=shares.__getitem__)
    floor = best.prediction.floor_s / best.step_s
    return (
        f"Limited by {limit}: {', '.join(listed)} of the step (mean over the ranks of a pipeline); "
        f"the floor of any schedule of this placement is {floor:.1%} of it."
    )


def _memory(problem: Problem, best: Candidate) -> str:
    found = best.prediction
    fullest = max(found.memory, key=lambda rank: sum(rank.values()))
    largest = sorted(fullest.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in largest)
    share = found.peak_bytes / problem.usable
    return (
        f"Memory: {found.peak_bytes / 2**30:.1f} of {problem.usable / 2**30:.1f} GiB usable "
        f"({share:.0%}) on the fullest rank; most of it {listed}."
    )


def _cautions(best: Candidate) -> Iterator[str]:
    costs = best.priced.costs
    share = sum(costs.weight) / sum((*costs.forward, *costs.backward, *costs.weight))
    if share < _HARDLY_ANY:
        yield (
            f"Splitting W from B pays nothing: W is {share:.1%} of the compute, as little as where "
            "weights are frozen (LoRA)."
        )
    if best.prediction.extended:
        yield "A shorter batch was simulated and extended by its last units."
    if not best.priced.stages.exact:
        yield "Blocks differ so much that a better split of them may exist."
