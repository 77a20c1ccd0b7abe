"""Both ends of every channel agree: what is sent is received, once, in the same order."""

from collections import defaultdict
from collections.abc import Iterator

from zeropp.ir.action import RECEIVES, SENDS, Action
from zeropp.ir.precedence import Channel, channel_of, matching_receive
from zeropp.ir.program import Program
from zeropp.program.violation import Violation


def channels(program: Program) -> Iterator[Violation]:
    """Report the first message of each channel at which its two ends differ."""
    sent, received = _traffic(program)
    for channel in sorted(sent.keys() | received.keys()):
        outgoing, incoming = sent[channel], received[channel]
        for index in range(max(len(outgoing), len(incoming))):
            left = outgoing[index] if index < len(outgoing) else None
            right = incoming[index] if index < len(incoming) else None
            if left != right:
                message = (
                    f"channel {channel}, message {index}: rank {channel.source} sends for "
                    f"{left or 'nothing'}, rank {channel.destination} posts {right or 'nothing'}"
                )
                yield Violation("channels", message)
                break


def _traffic(program: Program) -> tuple[dict[Channel, list[Action]], dict[Channel, list[Action]]]:
    """Per channel, the RECVs that the SENDs ask for, and the RECVs that are posted."""
    sent: dict[Channel, list[Action]] = defaultdict(list)
    received: dict[Channel, list[Action]] = defaultdict(list)
    for order in program.actions:
        for action in order:
            if action.kind in SENDS:
                sent[channel_of(action, program.placement)].append(matching_receive(action))
            elif action.kind in RECEIVES:
                received[channel_of(action, program.placement)].append(action)
    return sent, received
