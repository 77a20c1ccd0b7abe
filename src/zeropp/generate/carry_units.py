"""Unit sizes that are worth trying around the one asked for.

F's of the next chunk reach rank 0 one round after those of the last: a unit hides that round if its
own F's last as long, which takes P micro-batches at equal stages and free P2P, and more where hops
cost time. Later units have W's and B's to fill the wait with; the first has nothing.

    B=26, U=P=8, a hop of F/8      nearly equal, none above U      7 7 6 6
                                   nearly equal, one unit fewer    9 9 8
                                   a first unit that hides its
                                   round, then nearly equal        9 6 6 5
                                   the same, one unit fewer        9 9 8
                                   nearly equal, two units fewer   13 13
                                   all hide their round            13 13
"""

from zeropp.generate.carry_problem import Problem
from zeropp.generate.request import split_evenly

Sizes = tuple[int, ...]


def unit_sizes(problem: Problem, total: int, unit_size: int | None, slots: int) -> list[Sizes]:
    """Sizes that sum to `total`, best guess first, each once; all fit `slots`.

    `unit_size` None stands for P. Where it is given, no unit but the first reaches twice that; the
    first guess has no unit above it.
    """
    near = unit_size or min(problem.pp_size, total)
    even = _nearly_equal(total, near)
    if problem.num_chunks == 1:
        return even[:1]  # the orders are the same for all sizes
    hiding = _hiding_size(problem)
    led: list[Sizes] = []
    if near < hiding < total:
        led = [(hiding, *rest) for rest in _nearly_equal(total - hiding, near)]
    guesses = [*even[1:2], *led[:2], *even[2:]]
    if unit_size is None:
        guesses.append(split_evenly(total, max(1, total // hiding)))
    else:
        guesses = [sizes for sizes in guesses if max(sizes[1:] or sizes) < 2 * unit_size]
    fitting = [s for s in guesses if (problem.num_chunks - 1) * max(s) < slots]
    return list(dict.fromkeys([even[0], *fitting]))


def _nearly_equal(total: int, largest: int) -> list[Sizes]:
    """With the fewest units that keep all within `largest`, then with one and two units fewer."""
    parts = -(-total // largest)
    return [split_evenly(total, n) for n in range(parts, max(0, parts - 3), -1)]


def _hiding_size(problem: Problem) -> int:
    """The fewest micro-batches whose F's, in the slowest stage, last for one round of any chunk."""
    hops, sizes = problem.pp_size * problem.latency, []
    for chunk in range(problem.num_chunks):
        times = [by_rank[chunk] for by_rank in problem.durations[0]]
        sizes.append(-(-(sum(times) + hops) // max(times)))
    return max(sizes)
