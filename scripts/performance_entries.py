"""What docs/performance.md says about each benchmark beside its numbers, and what it draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from performance_cluster import cluster_tables
from performance_paper import paper_picture, paper_tables
from performance_ranked import ranked_picture

Row = dict[str, Any]


class RefusedError(ValueError):
    """The page would not be true, or its results are not what benchmarks print."""


@dataclass(frozen=True)
class Plot:
    """A picture of rows.

    Attributes:
        kind: `bars`, one group for each row; `lines`, one line for each value of `series`.
        label: keys that name a group of bars; for lines, the one key along the horizontal axis.
        values: the keys that are drawn; for lines, one.
        axis: what the values are, with their unit.
        series: for lines, the key that tells them apart.
        panels: for lines, keys whose values have a panel each.
    """

    kind: Literal["bars", "lines"]
    label: tuple[str, ...]
    values: tuple[str, ...]
    axis: str
    series: str = ""
    panels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One benchmark's section.

    Attributes:
        name: of benchmarks/NAME.py and NAME.json.
        what: what is compared and how, for someone who has not read the script.
        why: where a figure misses its target: what shows why, what was tried, what remains.
        plot: of its rows.
        tables: markdown in place of the table of rows.
        picture: in place of a plot.
        also: what a run with other options showed.
    """

    name: str
    what: str
    plot: Plot | None = None
    tables: Callable[[Sequence[Row]], str] | None = None
    picture: Callable[[Sequence[Row], Path], None] | None = None
    why: str = ""
    also: str = ""


ENTRIES = (
    Entry(
        "schedules",
        "Schedules evaluated on given costs, without a machine: how far ZeroPP's carried order is "
        "above the floor, which no schedule of its placement can beat, and whether any peer "
        "schedule with as much memory is faster. The rows are the cases in which one is, each with "
        "its reason.",
    ),
    Entry(
        "peers",
        "The same modules, micro-batches and costs under our runtime and under "
        "`torch.distributed.pipelining`. Processes and messages are real, compute sleeps, so that "
        "a few cores can stand for several devices.",
        picture=ranked_picture,
        why="**Why 1.08 over torch's best is missed.** With V=2 no order of any kind can start the "
        "last rank before P - 1 forwards, so at P=8, B=32 and equal costs every step takes at "
        "least (3BV + P - 1) / 3BV = 1.036 times one that is never idle. torch's ZBVZeroBubble is "
        "so near to that (`most_possible`) that an order on the floor, in a runtime without any "
        "cost, would not be 1.08 times as fast; evaluated on paper, ZeroPP and ZB-V both are on "
        "the floor (docs/schedules.md). What remains between ours and the floor is the runtime's "
        "own time per action, in processes that have just slept and find cold caches: "
        "`over_simulated`, which `shares`, a trace of our last step, splits by cause. Tried: "
        "orders made for the measured latency of a hop, sends before receives, process groups "
        "called directly, fewer operations per action. Against the schedules of torch that do "
        "not split the backward the ratio is near 1.08. The whole grid (`python "
        "benchmarks/peers.py --all`, 24 minutes, not shown): in each of its 18 combinations of P, "
        "B and costs the carried order is faster than the best of torch's with the same V, by "
        "1.005 to 1.039 times; 28 of our 38 sides take at most 1.03 times what is simulated. Of "
        "the ten others, of which eight are drained, the worst take 1.033 at P=4 and 1.044 at P=8.",
    ),
    Entry(
        "real",
        "A real GPT over two ranks with one thread and one core each, same weights, equal losses: "
        "our schedules and those of `torch.distributed.pipelining`. First all of torch's, then its "
        "fastest and all of ours in turn, by which the claim goes.",
        picture=ranked_picture,
        why="**Why 1.05 over torch's best is missed, or no more than reached.** With P=2 and V=2 "
        "every order takes at least (3BV + P - 1) / 3BV times a step that is never idle, 1.042 at "
        "B=4 and 1.083 at B=2; `most_possible` is what each side takes of that, in plain PyTorch's "
        "time. torch's vees have that floor too, so against them only what a runtime costs can be "
        "won. The trace of a step of ours, `shares`, shows what is left of it. At B=4 a refined "
        "zb-v loses the ramp and 1 % between its actions (`host`), where messages of 256 KiB are "
        "handed over; its `compute` is 3 to 4 % longer than plain PyTorch's, of which 2 are F + B "
        "+ W over a fused backward at layers this small, and the rest threads that carry messages "
        "and caches that an order which interleaves micro-batches finds cold. At B=2 a rank also "
        "waits for the other (`peer`) whenever an action takes longer than it mostly does, and "
        "there is nothing to fill that time with. Tried: V=1 and 4; vees refined for the measured "
        "times, within one more slot, and a core for each rank, without which posting a receive "
        "takes up to 5 ms now and then (both together: zb-v at B=4 from 1.09 to 1.08 of never "
        "idle); a vee of four chunks, whose floor is 1.02, but which sends as much as a loop of "
        "two; more messages under way at once (no gain); fewer operations per action. What "
        "remains: runs of a refined zb-v differ here, where other work shares the caches (1.03 to "
        "1.05 at B=4, 1.01 to 1.08 at B=2); and ZeroPP's carried order, a loop, sends half as many "
        "messages again as a vee, which costs it 1 to 2 %. Against the orders of torch that go "
        "round the ratio came to 1.01 to 1.11, more at B=4.",
    ),
    Entry(
        "cluster",
        "Hosts as network namespaces whose links are limited in rate, the pipeline across hosts, "
        "FSDP over two ranks inside a host or across hosts. Compute sleeps; bytes are real.",
        Plot("lines", ("rate",), ("step_s",), "step, s", "case", ("mapping", "B")),
        tables=cluster_tables,
        also="**Eight hosts** (16 ranks; `python benchmarks/cluster.py --hosts 8`, 19 minutes; "
        "run once). With shard groups inside hosts, B=4 and 200 Mbit/s or more, ZeroPP is fastest "
        "of all, 1.37 to 1.38 times breadth-first and 1.77 to 1.82 times 1F1B + ZeRO-3, in 0.78 of "
        "the latter's memory; at 50 Mbit/s 1.37 and 1.62 times. Across hosts it reaches 1.29 and "
        "2.08 at 500 Mbit/s (so that run misses 1.30), 1.31 and 1.78 without a limit, but in 1.01 "
        "of ZeRO-3's memory and 1.10 or more of that of 1F1B that gathers once a step. 16 "
        "processes on two cores are late where steps are short: 1.38 s against 1.13 predicted. At "
        "B=24 its gain over breadth-first shrinks to 1.02 to 1.14, as the bubble does, and it "
        "holds 1.6 to 1.8 times what 1F1B does when it is fastest, with U=B. It does not win "
        "across hosts at 50 Mbit/s: breadth-first is as fast at B=4 and interleaved 1F1B at B=24 "
        "(0.98 both).",
    ),
    Entry(
        "paper",
        "The three claims of the paper's abstract, simulated at its scale with the planner's "
        "analytic costs: up to 1.30 times the throughput of breadth-first, up to 1.68 times that "
        "of memory-efficient 1F1B, with 10 % less memory. The abstract does not say how that 1F1B "
        "shards its parameters. ZeRO-3 (gathered for every micro-batch) is the likely reading; "
        "*step* gathers and reduces once per step, *unsharded* replicates everything. ZeRO-3 is "
        "taken at its best: layer by layer, hidden behind compute wherever it can be. `drained` is "
        "the paper's order, gathered per unit; `ZeroPP` the fastest of our two seams, three unit "
        "sizes, and gathering per unit or per step. Each side recomputes the least that fits.",
        tables=paper_tables,
        picture=paper_picture,
        why="**Where the abstract's numbers hold, and why not elsewhere.** *1.30 over "
        "breadth-first*: the paper's drained order comes to it (1.30, rounded) at the smallest "
        "batch, B = P, of the deepest pipeline, where both have a ramp and only one of them fills "
        "it with W; the carried order goes beyond it, at large batch too where a pipeline crosses "
        "nodes over one slow card. Elsewhere the bubble that could be won is smaller than that: a "
        "breadth-first step is (P - 1) / (BV) longer than one that is never idle. *1.68 over 1F1B "
        "with 10 % less memory*: at small batch against 1F1B that gathers once per step or "
        "replicates everything, whose bubble is (P - 1) / B; at any batch against ZeRO-3 whose "
        "shards lie across nodes, where every micro-batch waits for gathers. Not against ZeRO-3 by "
        "layer inside a node, as NVLink hides its gathers (1.54 at best), and not at large batch "
        "against *step*, whose bubble is small by then (1.21 at best). 1F1B is faster, 0.75 in "
        "the median, where a pipeline crosses nodes over one 25 Gbit/s card: V chunks send V times "
        "as much.",
    ),
    Entry(
        "memory",
        "Peak memory by category for one order of actions, under our runtime and torch's.",
        Plot("bars", ("order", "V", "runtime"), ("peak, MiB",), "peak, MiB"),
    ),
    Entry(
        "prediction",
        "Steps as simulated from measured costs, against the same steps measured.",
        Plot("bars", ("case",), ("predicted_s", "measured_s"), "step, s"),
    ),
    Entry(
        "overhead",
        "Steps of real processes whose compute sleeps, against the simulator's makespan; and the "
        "executor's own time per action.",
        Plot("bars", ("P", "schedule"), ("simulated_s", "measured_s"), "step, s"),
    ),
    Entry(
        "split",
        "F, B and W of real GPT layers against a fused forward and backward, pair by pair; and the "
        "bytes that are alive between B and W against re-walking autograd's graph, as "
        "`torch.distributed.pipelining` does.",
    ),
    Entry(
        "resident",
        "Memory of gathered parameters and unreduced gradients of four processes, measured and "
        "simulated, over the number of micro-batches.",
    ),
    Entry(
        "planner",
        "The planner against trying every plan of random small problems, and the time that it "
        "takes for a 70-billion-parameter model.",
    ),
    Entry(
        "adaptation",
        "A rank slows down, or costs were assumed wrongly: what adapting while training wins back "
        "of the loss, against the order made for the true costs.",
        Plot("bars", ("case",), ("with_the_loss_s", "adapted_s", "could_be_s"), "step, s"),
    ),
    Entry("soak", "Thousands of steps, and hundreds of random pipelines, in the same processes."),
)
