"""Unit sizes that are worth trying around the one asked for.

A unit's F of the next chunk comes back to rank 0 after one round through all ranks. A unit hides
that round if its F's last as long: U >= P at equal stages and free P2P, more where hops cost time
or a stage is slower. Only the first unit has nothing else to fill the wait with.

    B=26, U=8       nearly equal, none above U        7 7 6 6
                    nearly equal, one unit fewer      9 9 8
                    two fewer                         13 13
                    a first unit that hides its round,
                    the rest as in the first row      10 8 8       (with a hop of F/8)
"""

from zeropp.generate.carry_problem import Problem
from zeropp.generate.request import split_evenly


def unit_sizes(
    problem: Problem, total: int, unit_size: int, slots: int
) -> tuple[tuple[int, ...], ...]:
    """Sizes that sum to `total`, best guess first; every unit fits `slots` and is below 2U.

    The first unit may be larger, to hide its round. The first guess has no unit above `unit_size`.
    """
    parts = -(-total // unit_size)
    guesses = [split_evenly(total, n) for n in range(parts, max(0, parts - 3), -1)]
    if problem.num_chunks == 1:
        return (guesses[0],)  # the orders are the same for all sizes
    first = _hiding_size(problem)
    if unit_size < first < total:
        rest = total - first
        guesses.append((first, *split_evenly(rest, -(-rest // unit_size))))
    reach = problem.num_chunks - 1
    return (
        guesses[0],
        *(
            sizes
            for sizes in guesses[1:]
            if reach * max(sizes) < slots and max(sizes[1:], default=sizes[0]) < 2 * unit_size
        ),
    )


def _hiding_size(problem: Problem) -> int:
    """The fewest micro-batches whose F's, in the slowest stage, last for one round of any chunk."""
    hops, sizes = problem.pp_size * problem.latency, []
    for chunk in range(problem.num_chunks):
        times = [by_rank[chunk] for by_rank in problem.durations[0]]
        sizes.append(-(-(sum(times) + hops) // max(times)))
    return max(sizes)
