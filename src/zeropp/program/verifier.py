"""Proof before launch: a schedule or a program is held against every rule, one function each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product

from zeropp.ir.action import COMPUTE, NEEDS_PARAMETERS, SHARDING, WEIGHT, Action, Kind
from zeropp.ir.links import Links, Numbers
from zeropp.ir.precedence import incoming, outgoing, sends_first
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.ir.walk import run_in_order

# The rule that is broken; on which rank and at which position of its order, None where there is
# none; and what is wrong, in words that follow the action at this position.
Finding = tuple[str, int | None, int | None, str]

Orders = Sequence[Sequence[Action]]
_AROUND = 4  # actions shown on either side
_NOWHERE = dict.fromkeys(Kind, "is between stages that do not both exist, or are on one rank")
_NOWHERE |= dict.fromkeys(COMPUTE, "names a stage that does not exist")
_NOWHERE |= dict.fromkeys(SHARDING, "names no stage that exists, or is in what is not sharded")
_UNSHARD, _RESHARD, _REDUCE = Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE


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

    @classmethod
    def of(cls, actions: Orders, finding: Finding) -> "Violation":
        """With the actions around it."""
        rule, rank, position, message = finding
        if rank is None or position is None:
            return cls(rule, message, rank)
        order = actions[rank]
        first, end = max(0, position - _AROUND), position + _AROUND + 1
        around = enumerate(order[first:end], first)
        shown = " ".join(f"[{a}]" if i == position else str(a) for i, a in around)
        before, after = "... " if first else "", " ..." if end < len(order) else ""
        return cls(rule, f"{order[position]} {message}", rank, position, before + shown + after)

    def __str__(self) -> str:
        where = "" if self.rank is None else f"rank {self.rank}"
        where += "" if self.position is None else f", position {self.position}"
        head = f"{self.rule}: " + (f"{where}: " if where else "") + self.message
        return f"{head}\n    {self.context}" if self.context else head


class InvalidProgramError(ValueError):
    """A schedule or program breaks a rule; the message lists the first violations."""


def verify(subject: Schedule | Program) -> tuple[Violation, ...]:
    """All violations of a schedule, or of a program and its schedule; empty if it is sound.

    Each rule but the first is checked only where those before it hold, since it builds on them.
    """
    program = subject if isinstance(subject, Program) else None
    schedule = subject if isinstance(subject, Schedule) else subject.schedule
    found = list(_placed(schedule, program))
    if not found:
        links = program.links if program else Links(schedule)
        orders = program.numbers if program else list(map(links.numbers, schedule.actions))
        found = list(_complete(program, links, orders))
    if not found:
        found = list(_precedence(program, links, orders))
        if program is not None:
            found += [*_channels(links, orders), *_sharding(program)]
    found = found or list(_deadlock(program, links, orders))
    return tuple(Violation.of(subject.actions, finding) for finding in found)


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


def _placed(schedule: Schedule, program: Program | None) -> Iterator[Finding]:
    """Every action is of a stage that its rank has, of a micro-batch of the batch, if it is a
    message, over a link, and if it is a collective, in a program that is sharded.
    """
    placement, batch = schedule.placement, range(schedule.num_microbatches)
    kinds = COMPUTE | SHARDING if program and program.shard else COMPUTE
    homes = {(kind, stage): rank for stage, rank in enumerate(placement.ranks) for kind in kinds}
    for end, (kind, stage) in product((outgoing, incoming), list(homes)):
        if program and (message := end(Action(kind, stage, 0), placement)):
            homes[message.kind, stage] = placement.rank_of(stage)
    batches = dict.fromkeys(Kind, batch) | dict.fromkeys(SHARDING, (None,))
    for rank, order in enumerate((program or schedule).actions):
        for position, (kind, stage, m) in enumerate(order):
            home = homes.get((kind, stage))
            if home != rank:
                wrong = _NOWHERE[kind] if home is None else f"belongs on rank {home}"
                yield "complete", rank, position, wrong
            elif m not in batches[kind]:
                yield "complete", rank, position, "names no micro-batch of the batch"


def _complete(program: Program | None, links: Links, orders: Numbers) -> Iterator[Finding]:
    """Every F, every B and W or BW, every SEND and RECV runs exactly once."""
    size, trains = links.size, links.schedule.trains
    expected = [True] * size + [trains] * (2 * size)
    for number in links.numbers(Action(Kind.W, *where) for where in links.schedule.fused):
        expected[number] = False
    if program is not None:
        crosses = [channel >= 0 for channel in links.channel[: 2 * size]]
        expected += 2 * [*crosses[:size], *(trains and crosses for crosses in crosses[size:])]
    count = [0] * links.end
    for number in chain.from_iterable(orders):
        count[number] += 1
    wrong = [number for number, once in enumerate(expected) if count[number] != once]
    last = {number: at for order in orders for at, number in enumerate(order)} if wrong else {}
    for number in wrong:
        action, wanted = links.action(number), "once" if expected[number] else "beside a BW"
        ran = f"runs {count[number]} times, not {wanted}"
        ran = ran if number in last else f"{action} {ran}"
        rank = links.schedule.placement.rank_of(action.stage)
        yield "complete", rank, last.get(number), ran


def _precedence(program: Program | None, links: Links, orders: Numbers) -> Iterator[Finding]:
    """On its rank, an action follows those it needs: what makes or brings its input above all."""
    inputs = enumerate(zip(links.channel, links.source, strict=True))
    brought = links.receives if program else -links.end
    made = [source if channel < 0 else max(-1, brought + n) for n, (channel, source) in inputs]
    made += [-1] * links.sharding
    own = links.own + links.source[: 2 * links.size] + [-1] * links.receives
    done = bytearray(links.end) + b"\1"  # at -1, which is none
    for rank, order in enumerate(orders):
        for at, number in enumerate(order):
            if not (done[own[number]] and done[made[number]]):
                needed = links.action(made[number] if done[own[number]] else own[number])
                yield "precedence", rank, at, f"comes before {needed}, which it needs"
            done[number] = True


def _channels(links: Links, orders: Numbers) -> Iterator[Finding]:
    """What is sent is received in the same order; of a channel, the first difference."""
    ends = [(list[int](), list[int]()) for _ in links.channels]
    for number in chain.from_iterable(orders):
        if links.sends <= number < links.sharding:
            received, taker = divmod(number - links.sends, 2 * links.size)
            ends[links.channel[taker]][received].append(links.receives + taker)
    for channel, (sent, posted) in zip(links.channels, ends, strict=True):
        for index, (left, right) in enumerate(zip(sent, posted, strict=True)):
            if left != right:
                message = f"rank {channel.source} sends for {links.action(left)}, "
                message += f"rank {channel.destination} posts {links.action(right)}"
                yield "channels", None, None, f"channel {channel}, message {index}: {message}"
                break


def _sharding(program: Program) -> Iterator[Finding]:
    """F, B and BW find their stage gathered, within the limit of stages; every gradient is reduced.
    No stage stays gathered after the step, or the next would compute with its old parameters; none
    is reduced before it is gathered at all, as FSDP2 knows no full parameter earlier.
    """
    if program.shard is None:
        return
    most = program.max_resident or program.placement.num_chunks
    for rank, order in enumerate(program.actions):
        gathered: dict[int, int] = {}  # resident stage -> since which position
        pending: dict[int, int] = {}  # stage -> position of its latest weight gradient
        known: set[int] = set()
        for position, (kind, stage, _) in enumerate(order):
            if kind in NEEDS_PARAMETERS and stage not in gathered:
                yield "residency", rank, position, "runs while its stage is not gathered"
            if kind in WEIGHT:
                pending[stage] = position
            elif kind is _UNSHARD:
                known.add(stage)
                gathered.setdefault(stage, position)
                if len(gathered) > most:
                    message = f"makes {len(gathered)} stages resident, above the limit of {most}"
                    yield "residency", rank, position, message
            elif kind is _RESHARD:
                gathered.pop(stage, None)
            elif kind is _REDUCE:
                pending.pop(stage, None)
                if stage not in known:
                    yield "residency", rank, position, "comes before its stage is ever gathered"
        for position in sorted(gathered.values()):
            yield "residency", rank, position, "gathers a stage that is never freed"
        for position in sorted(pending.values()):
            yield "reduced", rank, position, "makes a gradient that is never reduced"


def _deadlock(program: Program | None, links: Links, orders: Numbers) -> Iterator[Finding]:
    """No rank blocks for ever: in a schedule, on what others make; in a program, neither if every
    SEND blocks until its RECV is posted, nor if every RECV, once posted, holds its rank until its
    message is sent.

    Channels are in order at both ends by the rule `channels`, so a SEND meets its own RECV.
    """
    if program is None:
        walks = [(orders, run_in_order(orders, links.source), "")]
    else:
        positions = map(sends_first, program.actions)
        as_run = [[order[at] for at in run] for order, run in zip(orders, positions, strict=True)]
        nothing, sends = [-1] * links.size, range(links.sends, links.receives)
        holding = run_in_order(as_run, [*nothing * 5, *sends, *nothing * 3])
        where = " where posted receives hold, as on a GPU"
        walks = [(orders, program.walked, ""), (as_run, holding, where)]
    for run, (_, blocked), where in walks:
        for rank, at, awaited in blocked:
            position = orders[rank].index(run[rank][at])
            yield "deadlock", rank, position, f"waits for ever for {links.action(awaited)}{where}"
