"""What a page draws of runs, as plain data: curves of few points, memory, timelines, colours."""

from collections.abc import Mapping, Sequence
from typing import Any

from zeropp.ir.action import Kind
from zeropp.ir.cause import Cause
from zeropp.report.run import Box, Run
from zeropp.report.thin import kept, means
from zeropp.show.palette import meaning, shade

# Okabe and Ito's colours, which stay apart for colour-blind readers; then by their dashes too
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#21242A", "#8A8D91")
_DASHES = ("solid", "dash", "dot", "dashdot")
_POINTS = 4_000  # of a curve, of all runs together
_FEWEST, _MOST = 500, 2_000  # of one run
_GIB = 2**30
_CURVES = ("loss", "grad_norm", "lr", "tokens_per_s", "mfu", "memory_gib", "bubble")


def data_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Of all runs; the same names and numbers as in their files."""
    points = min(_MOST, max(_FEWEST, _POINTS // len(runs)))
    return {
        "runs": [_run(run, index, points) for index, run in enumerate(runs)],
        "causes": [
            {"name": str(cause), "colour": _HUES[index % len(_HUES)]}
            for index, cause in enumerate(Cause)
        ],
    }


def _run(run: Run, index: int, points: int) -> dict[str, Any]:
    names = dict.fromkeys(name for one in run.steps for name in one if _is_drawn(name))
    return {
        "name": run.name,
        "colour": _HUES[index % len(_HUES)],
        "dash": _DASHES[index // len(_HUES) % len(_DASHES)],
        "curves": {name: found for name in names if (found := _curve(run.steps, name, points))},
        "categories": _categories(run.memory),
        "timelines": [_timeline(name, boxes) for name, boxes in run.timelines.items()],
    }


def _is_drawn(name: str) -> bool:
    return name in _CURVES or name.startswith(("val_loss", "idle_", "bubble_"))


def _curve(steps: Sequence[Mapping[str, Any]], name: str, points: int) -> dict[str, Any] | None:
    found = [one for one in steps if isinstance(one.get(name), int | float)]
    values = [float(one[name]) for one in found]
    if not values:
        return None
    places = kept(values, points)
    calm = {"mean": means(values, places)} if len(places) < len(values) else {}
    return calm | {
        "value": [values[at] for at in places],
        **{axis: [found[at][axis] for at in places] for axis in ("step", "tokens")},
        "hours": [round(found[at]["hours"], 6) for at in places],
    }


def _categories(memory: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A bar for each rank, of what was predicted and of what was measured, from one category to
    the next.
    """
    known = {what: memory.get(what) or () for what in ("predicted", "measured")}
    bars: list[tuple[str, Mapping[str, float]]] = [
        (f"rank {rank}, {what}", held[rank])
        for rank in range(max(map(len, known.values())))
        for what, held in known.items()
        if rank < len(held)
    ]
    names = dict.fromkeys(name for _, held in bars for name in held)
    return [
        {
            "name": name.replace("_", " "),
            "colour": _HUES[index % len(_HUES)],
            "bars": [bar for bar, _ in bars],
            "gib": [held.get(name, 0) / _GIB for _, held in bars],
        }
        for index, name in enumerate(names)
    ]


def _timeline(name: str, boxes: Sequence[Box]) -> dict[str, Any]:
    """Its actions by kind and chunk, with the colours of every other picture."""
    chunks = 1 + max(box.chunk for box in boxes)
    ranks = 1 + max(box.rank for box in boxes)
    makespan = max(box.start + box.length for box in boxes) - min(box.start for box in boxes)
    parts: dict[tuple[str, int], list[Box]] = {}
    for box in boxes:
        parts.setdefault((box.kind, box.chunk), []).append(box)
    busy = sum(box.length for box in boxes)
    return {
        "name": name,
        "ranks": ranks,
        "makespan": makespan,
        "bubble": 1 - busy / (ranks * makespan) if makespan else 0.0,
        "parts": [
            {
                "name": f"{meaning(Kind(kind))}, chunk {chunk}"
                if chunks > 1
                else meaning(Kind(kind)),
                "colour": _hex(Kind(kind), chunk, chunks),
                "rank": [box.rank for box in found],
                "action": [box.name for box in found],
                "start": [box.start for box in found],
                "length": [box.length for box in found],
            }
            for (kind, chunk), found in sorted(parts.items(), key=_in_order)
        ],
    }


def _in_order(part: tuple[tuple[str, int], list[Box]]) -> tuple[int, int]:
    (kind, chunk), _ = part
    return list(Kind).index(Kind(kind)), chunk


def _hex(kind: Kind, chunk: int, chunks: int) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in shade(kind, chunk, chunks))
