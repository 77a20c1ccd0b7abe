"""Proof before launch: a schedule or a program is held against every rule, one function each."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from zeropp.ir.action import (
    NEEDS_PARAMETERS,
    RECEIVES,
    SENDS,
    SHARDING,
    WEIGHT,
    Action,
    Kind,
    collector_paused,
)
from zeropp.ir.precedence import (
    Channel,
    channel_of,
    incoming,
    matching_receive,
    matching_send,
    predecessors,
    producer,
    sends_first,
)
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule, peak_slots_per_rank
from zeropp.ir.timeline import DeadlockError, evaluate, run_in_order

# The rule that is broken; on which rank and at which position of its order, None where there is
# none; and what is wrong, in words that follow the action at this position.
Finding = tuple[str, int | None, int | None, str]

Orders = Sequence[Sequence[Action]]
_AROUND = 4  # actions shown on either side
_KINDS = (Kind.F, Kind.B, Kind.W, Kind.BW)
_OTHER_END = dict.fromkeys(SENDS, matching_receive) | dict.fromkeys(RECEIVES, matching_send)
_WHOLE = ((1, 1, 0), (0, 0, 1))  # split, fused


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        rule: the rule's name.
        message: what is wrong, in words.
        rank: where; None if it concerns the whole.
        position: index of the action in its rank's order; None if an action is missing.
        context: the actions around it, the offending one in brackets.
    """

    rule: str
    message: str
    rank: int | None = None
    position: int | None = None
    context: str = ""

    def __str__(self) -> str:
        where = "" if self.rank is None else f"rank {self.rank}"
        where += "" if self.position is None else f", position {self.position}"
        head = f"{self.rule}: " + (f"{where}: " if where else "") + self.message
        return f"{head}\n    {self.context}" if self.context else head


class InvalidProgramError(ValueError):
    """A schedule or program breaks a rule; the message lists the first violations."""


@collector_paused()
def verify(subject: Schedule | Program, slots: int | None = None) -> tuple[Violation, ...]:
    """All violations of a schedule, or of a program and its schedule; empty if it is sound.

    `slots`: most activations, one chunk of one micro-batch each, on any rank; None: any number.

    Rules on messages and collectives are checked only where the compute order is sound, since they
    speak of its actions; rules on who blocks whom only where the others hold.
    """
    schedule = subject.schedule if isinstance(subject, Program) else subject
    found = list(_complete(schedule)) or [*_precedence(schedule), *_slots(schedule, slots)]
    if found:
        subject = schedule
    elif isinstance(subject, Schedule):
        found = list(_compute_deadlock(subject))
    else:
        found = [
            *_messages_in_time(subject),
            *_channels(subject),
            *_residency(subject),
            *_economy(subject),
        ] or list(_deadlock(subject))
    return tuple(_violation(subject.actions, *finding) for finding in found)


def _violation(
    actions: Orders, rule: str, rank: int | None, position: int | None, message: str
) -> Violation:
    if rank is None or position is None:
        return Violation(rule, message, rank)
    order = actions[rank]
    first, end = max(0, position - _AROUND), position + _AROUND + 1
    shown = [f"[{a}]" if i == position else str(a) for i, a in enumerate(order[first:end], first)]
    before, after = "... " if first else "", " ..." if end < len(order) else ""
    context = before + " ".join(shown) + after
    return Violation(rule, f"{order[position]} {message}", rank, position, context)


def require_valid(program: Program) -> Program:
    """The program itself; raise InvalidProgramError if it breaks a rule."""
    if violations := verify(program):
        shown = "\n".join(map(str, violations[:5]))
        more = f"\n... and {len(violations) - 5} more" if len(violations) > 5 else ""
        raise InvalidProgramError(f"{len(violations)} violations:\n{shown}{more}")
    return program


def require_collectives(program: Program) -> None:
    """Raise ValueError unless the program gathers and reduces, as sharded parameters need."""
    if program.shard is None:
        raise ValueError(
            "program: it has no collectives, and parameters are sharded or cast; make it with "
            "--shard unit, step or microbatch"
        )


def _complete(schedule: Schedule) -> Iterator[Finding]:
    """Every stage runs every F, and its B and W or its BW, exactly once, on its rank."""
    yield from _misplaced(schedule)
    count = Counter(chain.from_iterable(schedule.actions))
    last = [{action: i for i, action in enumerate(order)} for order in schedule.actions]
    for stage, rank in enumerate(schedule.placement.ranks):
        for m in range(schedule.num_microbatches):
            actions = [Action(kind, stage, m) for kind in _KINDS]
            forward, *backward = (count[action] for action in actions)
            if forward != 1:
                ran = f"{stage}F{m} runs {forward} times, not once"
                yield _where(rank, last[rank], actions, ran)
            if schedule.trains and tuple(backward) not in _WHOLE:
                ran = ", ".join(f"{k} {n} times" for k, n in zip(_KINDS[1:], backward, strict=True))
                ran = f"stage {stage} microbatch {m} runs {ran}; expected B and W once, or BW once"
                yield _where(rank, last[rank], actions, ran)


def _where(rank: int, last: Mapping[Action, int], actions: Sequence[Action], ran: str) -> Finding:
    """What is wrong with a stage's micro-batch, at the last of its actions that are there."""
    there = [last[action] for action in actions if action in last]
    return "complete", rank, max(there, default=None), f"is there, and {ran}" if there else ran


def _misplaced(schedule: Schedule) -> Iterator[Finding]:
    ranks = schedule.placement.ranks
    for rank, order in enumerate(schedule.actions):
        for position, (_, stage, m) in enumerate(order):
            if stage >= len(ranks):
                yield "complete", rank, position, "names a stage that does not exist"
            elif ranks[stage] != rank:
                yield "complete", rank, position, f"belongs on rank {ranks[stage]}"
            elif m is None or m >= schedule.num_microbatches:
                yield "complete", rank, position, "names no micro-batch of the batch"


def _precedence(schedule: Schedule) -> Iterator[Finding]:
    """No compute action comes before a predecessor that runs on the same rank."""
    ranks = schedule.placement.ranks

    def needs(action: Action) -> list[Action]:
        rank = ranks[action.stage]
        return [needed for needed in predecessors(action, schedule) if ranks[needed.stage] == rank]

    return _in_order(schedule.actions, needs)


def _slots(schedule: Schedule, limit: int | None) -> Iterator[Finding]:
    """No rank holds more activations than `limit` slots; None: no limit."""
    for rank, peak in enumerate(peak_slots_per_rank(schedule)):
        if limit is not None and peak > limit:
            yield "slots", rank, None, f"holds {peak} slots, above the limit of {limit}"


def _compute_deadlock(schedule: Schedule) -> Iterator[Finding]:
    """The ranks' compute orders do not contradict each other."""
    try:
        evaluate(schedule, lambda action: 1.0)
    except DeadlockError as error:
        yield "deadlock", None, None, str(error)


def _messages_in_time(program: Program) -> Iterator[Finding]:
    """Compute comes after the RECV that it consumes, and a SEND after what it sends."""
    placement = program.placement

    def needs(action: Action) -> tuple[Action, ...]:
        if action.kind in SENDS:
            return (producer(action, program.schedule),)
        receive = incoming(action, placement)
        return (receive,) if receive else ()

    return _in_order(program.actions, needs)


def _in_order(orders: Orders, needs: Callable[[Action], Iterable[Action]]) -> Iterator[Finding]:
    """On its own rank, an action comes after all that it `needs`."""
    for rank, order in enumerate(orders):
        done: set[Action] = set()
        for position, action in enumerate(order):
            for needed in needs(action):
                if needed not in done:
                    yield "precedence", rank, position, f"comes before {needed}, which it needs"
            done.add(action)


def _channels(program: Program) -> Iterator[Finding]:
    """What is sent is received, once, in the same order; of a channel, the first difference."""
    placement = program.placement
    ends: dict[Channel, tuple[list[Action], list[Action]]] = defaultdict(lambda: ([], []))
    stages = range(placement.num_stages)
    for rank, order in enumerate(program.actions):
        for position, action in enumerate(order):
            if action.kind not in _OTHER_END:
                continue
            sends, other = action.kind in SENDS, _OTHER_END[action.kind](action)
            if action.stage not in stages or other.stage not in stages:
                yield "channels", rank, position, "is between stages that do not both exist"
            else:
                ends[channel_of(action, placement)][not sends].append(other if sends else action)
    for channel, (sent, posted) in sorted(ends.items()):
        for index, (left, right) in enumerate(zip_longest(sent, posted)):
            if left != right:
                message = (
                    f"channel {channel}, message {index}: rank {channel.source} sends for "
                    f"{left or 'nothing'}, rank {channel.destination} posts {right or 'nothing'}"
                )
                yield "channels", None, None, message
                break


def _residency(program: Program) -> Iterator[Finding]:
    """F, B and BW find their stage gathered, and no rank gathers more stages than the limit."""
    if program.shard is None:
        return
    most = program.max_resident
    for rank, order in enumerate(program.actions):
        resident: set[int] = set()
        for position, (kind, stage, _) in enumerate(order):
            if kind is Kind.UNSHARD:
                resident.add(stage)
                if most is not None and len(resident) > most:
                    message = f"makes {len(resident)} stages resident, above the limit of {most}"
                    yield "residency", rank, position, message
            elif kind is Kind.RESHARD:
                resident.discard(stage)
            elif kind in NEEDS_PARAMETERS and stage not in resident:
                yield "residency", rank, position, "runs while its stage is not gathered"


def _economy(program: Program) -> Iterator[Finding]:
    """Nothing is gathered or reduced twice without need, and every gradient is reduced."""
    for rank, order in enumerate(program.actions):
        if program.shard is None:
            for position, action in enumerate(order):
                if action.kind in SHARDING:
                    yield "economy", rank, position, "in a program that is not sharded"
        else:
            yield from _gathers(rank, order)
            yield from _reduces(rank, order)


def _gathers(rank: int, order: Sequence[Action]) -> Iterator[Finding]:
    used: dict[int, bool] = {}  # resident stage -> whether anything used it
    for position, (kind, stage, _) in enumerate(order):
        if kind is Kind.UNSHARD:
            if stage in used:
                yield "economy", rank, position, "gathers a stage that is gathered"
            used[stage] = False
        elif kind is Kind.RESHARD:
            if stage not in used:
                yield "economy", rank, position, "frees a stage that is not gathered"
            elif not used[stage]:
                yield "economy", rank, position, "frees a stage that nothing used"
            used.pop(stage, None)
        elif kind in NEEDS_PARAMETERS and stage in used:
            used[stage] = True
    for stage in used:
        yield "economy", rank, None, f"stage {stage} is never freed"


def _reduces(rank: int, order: Sequence[Action]) -> Iterator[Finding]:
    pending: dict[int, int] = {}  # stage -> position of its latest weight gradient
    for position, (kind, stage, _) in enumerate(order):
        if kind in WEIGHT:
            pending[stage] = position
        elif kind is Kind.REDUCE and pending.pop(stage, None) is None:
            yield "economy", rank, position, "reduces no new gradient"
    for position in sorted(pending.values()):
        yield "economy", rank, position, "makes a gradient that is never reduced"


def _deadlock(program: Program) -> Iterator[Finding]:
    """No rank blocks for ever, neither if every SEND blocks until its RECV is posted, nor if every
    RECV, once posted, holds its rank until its message is sent.

    Channels are in order at both ends by the rule `channels`, so a SEND meets its own RECV.
    """
    placement = program.placement

    def of_sends(action: Action) -> Action | None:
        receive = incoming(action, placement)
        if action.kind in SENDS:
            return matching_receive(action)
        return matching_send(receive) if receive else None

    def of_receives(action: Action) -> Action | None:
        return matching_send(action) if action.kind in RECEIVES else None

    yield from _stuck(program, program.actions, of_sends, "")
    as_run = [tuple(sends_first(order)) for order in program.actions]
    yield from _stuck(program, as_run, of_receives, " where posted receives hold, as on a GPU")


def _stuck(
    program: Program, orders: Orders, awaits: Callable[[Action], Action | None], where: str
) -> Iterator[Finding]:
    done: set[Action] = set()

    def attempt(rank: int, action: Action) -> Action | None:
        awaited = awaits(action)
        if awaited is not None and awaited not in done:
            return awaited
        done.add(action)
        return None

    for rank, _, action, awaited in run_in_order(orders, attempt):
        position = program.actions[rank].index(action)
        yield "deadlock", rank, position, f"waits for ever for {awaited}{where}"
