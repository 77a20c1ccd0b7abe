"""A long curve made of fewer points, none of its spikes lost."""

from collections.abc import Sequence


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
