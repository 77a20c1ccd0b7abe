"""Table of `cluster.py`'s verdicts: by mapping, batch and link rate, where ZeroPP wins and where
it does not.
"""

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
PEERS = {
    "zeropp breadth-first unit": "breadth-first",
    "zeropp 1f1b microbatch": "1F1B + ZeRO-3",
    "zeropp 1f1b step": "1F1B, step",
    "torch LoopedBFS unit": "torch LoopedBFS",
}
_WORDS = (
    "Shard groups lie *inside* a host or *across* hosts. ZeroPP is the fastest of its seams and "
    "unit sizes; all sides but torch's run in our runtime. First its throughput over each peer, "
    "then its peak memory over theirs, then every peer that is as fast or faster. Small units are "
    "not free: the last column is the slowest ZeroPP over breadth-first."
)


def cluster_tables(rows: Sequence[Row]) -> str:
    """One line for each mapping, batch and rate."""
    cells = ["mapping, B, rate", "fastest ZeroPP", *(f"/ {name}" for name in PEERS.values())]
    cells += [f"memory / {name}" for name in list(PEERS.values())[:3]]
    cells += ["does not win over", "slowest ZeroPP / breadth-first"]
    lines = [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]
    lines += [_line(row) for row in rows if "verdict" in row]
    return "\n\n".join([_WORDS, "\n".join(lines), _STEPS, _steps(rows)])


_STEPS = (
    "Steps in seconds, by link rate; `--json` has bytes on the wire, memory and idle times too."
)


def _line(row: Row) -> str:
    faster, memory = row["throughput_over"], row["memory_of"]
    slowest = min(row["every_zeropp_over_breadth_first"].items(), key=lambda item: item[1])
    cells = [row["verdict"], row["fastest_zeropp"].removeprefix("zeropp ")]
    cells += [_number(faster.get(key)) for key in PEERS]
    cells += [_number(memory.get(key)) for key in list(PEERS)[:3]]
    cells += [row["does_not_win_over"], f"{slowest[1]:.2f} ({slowest[0].removeprefix('zeropp ')})"]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _steps(rows: Sequence[Row]) -> str:
    """One line for each case and mapping, one column for each rate."""
    measured = [row for row in rows if "step_s" in row]
    rates = list(dict.fromkeys(row["rate"] for row in measured))
    lines = [f"| mapping | B | case | {' | '.join(rates)} |", "|---" * (3 + len(rates)) + "|"]
    for key in dict.fromkeys((row["mapping"], row["B"], row["case"]) for row in measured):
        own = {r["rate"]: r["step_s"] for r in measured if (r["mapping"], r["B"], r["case"]) == key}
        lines.append(f"| {' | '.join([*map(str, key), *(_number(own.get(x)) for x in rates)])} |")
    return "\n".join(lines)
