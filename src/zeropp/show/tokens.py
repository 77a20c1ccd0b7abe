"""Tokens: an action in a few characters, such as `F3'`, and the key that explains them."""

from collections.abc import Mapping
from types import MappingProxyType

from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.timeline import Timeline

_LETTERS: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.UNSHARD: "U",
        Kind.RESHARD: "X",
        Kind.REDUCE: "R",
        Kind.SEND_F: ">F",
        Kind.SEND_B: ">B",
        Kind.RECV_F: "<F",
        Kind.RECV_B: "<B",
    }
)
_MEANING: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.F: "F forward",
        Kind.B: "B input gradient",
        Kind.W: "W weight gradient",
        Kind.BW: "BW fused backward",
        Kind.UNSHARD: "U unshard",
        Kind.RESHARD: "X reshard",
        Kind.REDUCE: "R reduce",
        Kind.SEND_F: ">F send",
        Kind.SEND_B: ">B send",
        Kind.RECV_F: "<F receive",
        Kind.RECV_B: "<B receive",
    }
)


def token_of(action: Action, placement: Placement) -> str:
    """Kind and micro-batch, with a mark for the chunk; a collective has its stage instead."""
    letters = _LETTERS.get(action.kind, action.kind.value)
    if action.microbatch is None:
        return f"{letters}{action.stage}"
    chunk = placement.chunk_of(action.stage)
    return f"{letters}{action.microbatch}{_mark(chunk, placement.num_chunks)}"


def letters_of(token: str) -> str:
    """A token without its number and mark."""
    return token.rstrip("0123456789:'")


def _mark(chunk: int, num_chunks: int) -> str:
    if num_chunks <= 3:
        return "'" * chunk
    return f":{chunk}" if chunk else ""


def key_of(timeline: Timeline) -> str:
    """What the letters and marks in this picture mean."""
    spans = (span for rank in timeline.spans for span in rank)
    present = {span.action.kind for span in spans if span.end > span.start}
    num_chunks = timeline.placement.num_chunks
    marks = [f"{_mark(chunk, num_chunks)} chunk {chunk}" for chunk in range(1, num_chunks)]
    return "   ".join([*(_MEANING[kind] for kind in Kind if kind in present), *marks, ". idle"])
