"""A long curve made of fewer points, none of its spikes lost."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean


def kept(values: Sequence[float], most: int) -> list[int]:
    """Which of the values are kept: all of few; else of every part the lowest and the highest, and
    both ends of the whole.

    Args:
        values: of the curve, in order.
        most: points that may be left, at least 4.
    """
    count = len(values)
    if count <= most:
        return [*range(count)]
    parts = (most - 2) // 2
    found = {0, count - 1}
    for part in range(parts):
        first = part * count // parts
        inside = values[first : (part + 1) * count // parts]
        found |= {first + inside.index(end(inside)) for end in (min, max)}
    return sorted(found)


def means(values: Sequence[float], places: Sequence[int]) -> list[float]:
    """Of each kept value and of those around it that are not kept."""
    ends = [0, *((a + b + 1) // 2 for a, b in pairwise(places)), len(values)]
    return [fmean(values[first:end]) for first, end in pairwise(ends)]
