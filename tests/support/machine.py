"""A machine that runs a program one action at a time, and so finds out whether it is sound.

It shares no rule with the verifier: every rank has its memory, every channel is a queue, and what
an action needs is looked for there when the action runs. Two things can be switched: whether a SEND
blocks until its RECV is posted, and whether a posted RECV holds its rank until the SEND.
"""

from collections import defaultdict
from collections.abc import Sequence

from zeropp.ir import Action, Program, Shape


class FaultError(Exception):
    """An action that cannot be run, ever."""


def sound(program: Program) -> bool:
    """Whether it runs to its end where sends block, and where receives hold."""
    return runs(program, blocking=True) and runs(program, holding=True)


def runs(program: Program, *, blocking: bool = False, holding: bool = False) -> bool:
    """Whether it runs to its end, with nothing missing and nothing done twice."""
    try:
        return Machine(program, blocking, holding).run()
    except FaultError:
        return False


class Machine:
    """All ranks, and the queues between them."""

    def __init__(self, program: Program, blocking: bool, holding: bool) -> None:
        placement = program.placement
        self.P, self.S = placement.pp_size, placement.pp_size * placement.num_chunks
        self.vee = placement.shape is Shape.VEE
        self.B = program.schedule.num_microbatches
        self.program, self.blocking, self.holding = program, blocking, holding
        self.orders = [
            _sends_before_receives(order) if holding else list(order) for order in program.actions
        ]
        self.done: set[tuple[str, int, int]] = set()
        self.sent: dict[tuple[int, int, str], list[tuple[int, int]]] = defaultdict(list)
        self.posted: dict[tuple[int, int, str], list[tuple[int, int]]] = defaultdict(list)
        self.gathered: list[set[int]] = [set() for _ in self.orders]
        self.ever_gathered: set[int] = set()
        self.unreduced: set[int] = set()
        self.held: set[int] = set()  # ranks in a RECV that is posted

    def rank(self, stage: int) -> int:
        lap, place = divmod(stage, self.P)
        return self.P - 1 - place if self.vee and lap % 2 else place

    def run(self) -> bool:
        at = [0] * len(self.orders)
        going = True
        while going:
            going = False
            for rank, order in enumerate(self.orders):
                while at[rank] < len(order) and self.step(rank, order[at[rank]]):
                    at[rank] += 1
                    going = True
        return all(i == len(order) for i, order in zip(at, self.orders, strict=True)) and (
            self.complete()
        )

    def complete(self) -> bool:
        trains = any(kind in ("B", "W", "BW") for kind, _, _ in self.done)
        for stage in range(self.S):
            for m in range(self.B):
                ran = {kind for kind in ("F", "B", "W", "BW") if (kind, stage, m) in self.done}
                if ran not in ([{"F", "B", "W"}, {"F", "BW"}] if trains else [{"F"}]):
                    return False
        return self.sent == self.posted and not self.unreduced and not any(self.gathered)

    def step(self, rank: int, action: Action) -> bool:
        """Run an action; False: not yet."""
        kind, stage, m = str(action.kind), action.stage, action.microbatch
        self.check(0 <= stage < self.S and self.rank(stage) == rank)
        if kind in ("UNSHARD", "RESHARD", "REDUCE"):
            self.check(m is None)
            self.shard(rank, kind, stage)
            return True
        if m is None or not 0 <= m < self.B:
            raise FaultError
        if kind in ("F", "B", "W", "BW"):
            return self.compute(rank, kind, stage, m)
        return self.message(rank, kind, stage, m)

    def check(self, holds: bool) -> None:
        if not holds:
            raise FaultError

    def shard(self, rank: int, kind: str, stage: int) -> None:
        self.check(self.program.shard is not None)
        here, limit = self.gathered[rank], self.program.max_resident
        if kind == "UNSHARD":
            here.add(stage)
            self.ever_gathered.add(stage)
            self.check(limit is None or len(here) <= limit)
        elif kind == "RESHARD":
            here.discard(stage)
        else:
            self.check(stage in self.ever_gathered)
            self.unreduced.discard(stage)

    def compute(self, rank: int, kind: str, stage: int, m: int) -> bool:
        self.check((kind, stage, m) not in self.done)
        if kind == "W":
            self.check(("B", stage, m) in self.done)
        else:
            self.check(self.program.shard is None or stage in self.gathered[rank])
            if kind != "F":
                self.check(("F", stage, m) in self.done)
                self.check(not {("B", stage, m), ("BW", stage, m)} & self.done)
            if not self.has_input(rank, kind, stage, m):
                return False
        self.done.add((kind, stage, m))
        if kind in ("W", "BW") and self.program.shard is not None:
            self.unreduced.add(stage)
        return True

    def has_input(self, rank: int, kind: str, stage: int, m: int) -> bool:
        maker = stage - 1 if kind == "F" else stage + 1
        if not 0 <= maker < self.S:
            return True
        if self.rank(maker) == rank:
            self.check(self.made(kind == "F", maker, m))
            return True
        channel = self.rank(maker), rank, "F" if kind == "F" else "B"
        self.check((stage, m) in self.posted[channel])
        return (stage, m) in self.sent[channel]

    def made(self, forward: bool, stage: int, m: int) -> bool:
        return any((k, stage, m) in self.done for k in (("F",) if forward else ("B", "BW")))

    def message(self, rank: int, kind: str, stage: int, m: int) -> bool:
        what, way = kind.split("_")
        ahead = (what == "SEND") == (way == "F")  # the other end is the next stage
        other = stage + 1 if ahead else stage - 1
        self.check(0 <= other < self.S and self.rank(other) != rank)
        if what == "SEND":
            self.check(self.made(way == "F", stage, m))
            return self.send((rank, self.rank(other), way), (other, m))
        return self.receive((self.rank(other), rank, way), (stage, m))

    def send(self, channel: tuple[int, int, str], letter: tuple[int, int]) -> bool:
        sent, posted = self.sent[channel], self.posted[channel]
        self.check(letter not in sent)
        place = len(sent)
        if place < len(posted):
            self.check(posted[place] == letter)
        elif self.blocking:
            return False
        sent.append(letter)
        return True

    def receive(self, channel: tuple[int, int, str], letter: tuple[int, int]) -> bool:
        sent, posted = self.sent[channel], self.posted[channel]
        rank = channel[1]
        if rank not in self.held:
            self.check(letter not in posted)
            posted.append(letter)
            self.held.add(rank)
        if self.holding and len(sent) < len(posted):
            return False
        self.held.discard(rank)
        if len(posted) <= len(sent):
            self.check(sent[len(posted) - 1] == letter)
        return True


def _sends_before_receives(order: Sequence[Action]) -> list[Action]:
    """As ranks run them: of the messages between two other actions, the sends first."""
    runs: list[list[Action]] = [[]]
    for action in order:
        if "_" in action.kind:
            runs[-1].append(action)
        else:
            runs += [[action], []]
    return [a for run in runs for a in sorted(run, key=lambda a: a.kind.startswith("RECV"))]
