"""Any schedule at any small size, for property tests."""

from typing import NamedTuple

from hypothesis import strategies as st

from zeropp.generate import GENERATORS


class Sized(NamedTuple):
    """Arguments of `generate`."""

    name: str
    P: int
    V: int
    B: int


@st.composite
def sized(draw: st.DrawFn, most_ranks: int, most_microbatches: int) -> Sized:
    """A schedule with a number of chunks that it takes."""
    name = draw(st.sampled_from(sorted(GENERATORS)))
    P, B = draw(st.integers(1, most_ranks)), draw(st.integers(1, most_microbatches))
    allowed = GENERATORS[name].chunks
    V = draw(st.integers(1, 3) if allowed is None else st.sampled_from(sorted(allowed)))
    return Sized(name, P, V, B)
