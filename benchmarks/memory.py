"""Peak memory by category of our runtime and torch.distributed.pipelining's, in the same order.

Run: python benchmarks/memory.py [--json]; four ranks with a small GPT, about three minutes.

Ours runs the very order that torch's runtime was seen to run, over the same stages. What counts is
every tensor that a step makes, when and where most of their bytes are alive.
"""

from support.claim import Figure, Row, run
from support.gpt import Task
from support.memory import CATEGORIES, MemoryLog
from support.ranks import run_ranks
from support.sides import Side, forget_gradients, gradients
from support.torch_runtime import CPU, PEERS
from zeropp.ir import Action, Placement, Schedule, Shape
from zeropp.ir.model import GPTConfig
from zeropp.program import lower
from zeropp.runtime.grid import close_mesh, make_mesh
from zeropp.runtime.pipeline import Pipeline
from zeropp.train.gpt import token_loss

CLAIM = "Peak memory in the same order of actions"

P = 4
TASK = Task(GPTConfig(vocab_size=256, seq_len=128, layers=8, hidden=128, heads=4), B=8, samples=2)
ORDERS = {peer: peer.chunks or 2 for peer in PEERS.values()}  # with V
Peak = dict[str, int]


def logged(side: Side, given: Schedule | None) -> tuple[Peak, list[Action]]:
    """On one rank: the peak of the second step, and its actions; ours runs the order given."""
    if given is None:
        running = TASK.start(side)
    else:
        own = TASK.blocks(), token_loss, lower(given), make_mesh(P, device=CPU)
        running = Pipeline(*own, device=CPU, end_mesh=close_mesh)
    log, batch = MemoryLog(), TASK.batch()
    with log:
        for _ in range(2):
            forget_gradients(running.modules)
            log.begin_step()
            running.step(batch, observer=log)
        found = log.at_peak(gradients(running.modules).values())
    running.close()
    return found, log.order


def compare(name: str, V: int, vee: bool) -> tuple[Peak, Peak]:
    """Ours and torch's, each of its fullest rank."""
    theirs = run_ranks(P, logged, Side(name, V), None, timeout=300)
    orders = [order for _, order in theirs]
    placement = Placement(Shape.VEE if vee else Shape.LOOP, P, V)
    schedule = Schedule(name, placement, (TASK.B,), tuple(map(tuple, orders)))
    ours = run_ranks(P, logged, Side("zeropp", V), schedule, timeout=300)
    if [order for _, order in ours] != orders:
        raise AssertionError(f"{name}: the orders differ")
    return _fullest(ours), _fullest(theirs)


def _fullest(ranks: list[tuple[Peak, list[Action]]]) -> Peak:
    return max((peak for peak, _ in ranks), key=lambda peak: sum(peak.values()))


def measure() -> tuple[list[Row], list[Figure]]:
    """Two rows for each order."""
    rows, figures = [], []
    for peer, V in ORDERS.items():
        peaks = compare(peer.name, V, peer.vee)
        ours, theirs = (sum(peak.values()) for peak in peaks)
        name = f"{peer.name}: our peak over torch's"
        figures.append(Figure(name, ours / theirs, 1.0, "times"))
        for runtime, peak in zip(("ours", "torch"), peaks, strict=True):
            row: Row = {"order": peer.name, "V": V, "runtime": runtime}
            row |= {f"{key}, MiB": round(peak[key] / 2**20, 2) for key in CATEGORIES}
            rows.append(row | {"peak, MiB": round(sum(peak.values()) / 2**20, 2)})
    return rows, figures


if __name__ == "__main__":
    run(CLAIM, measure)
