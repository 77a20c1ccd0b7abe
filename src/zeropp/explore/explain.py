"""One action of a simulated run in words: what it is, when it ran, and what it waited for."""

from typing import Any

from zeropp.explore.critical import Chains, How, Place, Wait
from zeropp.ir import Action, Kind, Placement
from zeropp.show.parts import number
from zeropp.simulate import Report

_KINDS = {
    Kind.F: "forward",
    Kind.B: "input gradient",
    Kind.W: "weight gradient",
    Kind.BW: "fused backward",
    Kind.UNSHARD: "gather of the parameters",
    Kind.REDUCE: "reduction of the gradients",
    Kind.SEND_F: "message with the output",
    Kind.SEND_B: "message with the gradient",
}
_WHY = {
    How.ORDER: "comes before it on its rank",
    How.INPUT: "makes its input on its rank",
    How.MESSAGE: "brings its input",
    How.PARAMETERS: "gathers its stage",
    How.STREAM: "is the collective before it",
    How.CHANNEL: "keeps the channel busy",
    How.POSTED: "ran before the other rank posted the receive",
}


def explained(report: Report, chains: Chains, rank: int, position: int) -> dict[str, Any]:
    """As plain data.

    Raises:
        ValueError: there is no action at this position that takes time.
    """
    place = Place(rank, position)
    if place not in chains.spans:
        raise ValueError(f"explain: rank {rank} runs nothing at position {position}")
    span, placement = chains.spans[place], report.program.placement
    decisive = chains.decisive(place)
    return {
        "rank": rank,
        "position": position,
        "action": str(span.action),
        "what": f"{span.action}: {_what(span.action, placement)}, on rank {rank}",
        "when": f"from {number(span.start)} to {number(span.end)}",
        "critical": place in chains.critical(),
        "waits": [
            _told(chains, wait, wait is decisive)
            for wait in sorted(chains.waits[place], key=lambda wait: -wait.ready)
        ],
    }


def _what(action: Action, placement: Placement) -> str:
    chunk = f" (chunk {placement.chunk_of(action.stage)})" if placement.num_chunks > 1 else ""
    of = "" if action.microbatch is None else f" of micro-batch {action.microbatch}"
    return f"{_KINDS[action.kind]}{of}, stage {action.stage}{chunk}"


def _told(chains: Chains, wait: Wait, decisive: bool) -> dict[str, Any]:
    action, place = chains.spans[wait.place].action, wait.place
    return {
        "text": f"{action} on rank {place.rank} {_WHY[wait.how]}: ready at {number(wait.ready)}",
        "rank": place.rank,
        "position": place.position,
        "how": str(wait.how),
        "ready": wait.ready,
        "decisive": decisive,
    }
