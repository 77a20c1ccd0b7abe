"""Where ZeroPP wins on the cluster and where it does not, from the measured rows."""

from collections import defaultdict
from typing import Any

from claim import Figure
from cluster_cases import BREADTH_FIRST, ZERO_2, ZERO_3, Mapping, rate_name

Row = dict[str, Any]
Place = tuple[str, int, str]  # mapping, B, rate

GAIN_OVER_BREADTH_FIRST, GAIN_OVER_ZERO_3, MEMORY_SHARE = 1.30, 1.68, 0.90
_AS_FAST = 1.01  # less is within what repeated runs differ by


def by_place(rows: list[Row]) -> dict[Place, list[Row]]:
    """What was measured side by side."""
    places: dict[Place, list[Row]] = defaultdict(list)
    for row in rows:
        places[row["mapping"], row["B"], row["rate"]].append(row)
    return places


def verdicts(rows: list[Row]) -> list[Row]:
    """For every place, the fastest ZeroPP over each other case, and what it does not win over."""
    return [_verdict(place, found) for place, found in by_place(rows).items()]


def _verdict(place: Place, rows: list[Row]) -> Row:
    best = min((row for row in rows if row["schedule"] == "zeropp"), key=lambda r: r["step_s"])
    others = [row for row in rows if row["schedule"] != "zeropp"]
    breadth_first = _find(rows, BREADTH_FIRST)
    every = {
        row["case"]: round(breadth_first["step_s"] / row["step_s"], 2)
        for row in rows
        if row["schedule"] == "zeropp"
    }
    gains = {row["case"]: row["step_s"] / best["step_s"] for row in others}
    lost = [f"{case} ({gain:.2f})" for case, gain in gains.items() if gain < _AS_FAST]
    mapping, batch, rate = place
    return {
        "verdict": f"{mapping} B={batch} {rate}",
        "fastest_zeropp": best["case"],
        "throughput_over": {case: round(gain, 2) for case, gain in gains.items()},
        "memory_of": {row["case"]: round(_memory(best, row), 2) for row in others},
        "every_zeropp_over_breadth_first": every,
        "does_not_win_over": ", ".join(lost) or "none",
        "claims_missed": "; ".join(_claims_missed(rows, best)) or "none",
    }


def _claims_missed(rows: list[Row], best: Row) -> list[str]:
    """Which of the claims does not hold here, with what was found and what is claimed."""
    missed = []
    for peer, claimed in ((BREADTH_FIRST, GAIN_OVER_BREADTH_FIRST), (ZERO_3, GAIN_OVER_ZERO_3)):
        gain = _find(rows, peer)["step_s"] / best["step_s"]
        if gain < claimed:
            missed.append(f"throughput over {peer}: {gain:.2f} < {claimed:.2f}")
    for peer in (ZERO_2, ZERO_3):
        share = _memory(best, _find(rows, peer))
        if share > MEMORY_SHARE:
            missed.append(f"memory over {peer}: {share:.2f} > {MEMORY_SHARE:.2f}")
    return missed


def figures(rows: list[Row], mapping: Mapping, batch: int, rate: float | None) -> list[Figure]:
    """The claims, at one place, of the drained order with a unit of all its micro-batches."""
    place = str(mapping), batch, rate_name(rate)
    found = by_place(rows)[place]
    ours = _find(found, f"zeropp drain U={batch}")
    breadth_first, zero_3, zero_2 = (_find(found, c) for c in (BREADTH_FIRST, ZERO_3, ZERO_2))
    where = f"shard group {mapping} hosts, B={batch}, {place[2]}"
    steps = ((breadth_first, GAIN_OVER_BREADTH_FIRST), (zero_3, GAIN_OVER_ZERO_3))
    listed = [
        Figure(
            f"throughput over that of {peer['case']}: {where}",
            peer["step_s"] / ours["step_s"],
            gain,
            "times",
            at_least=True,
        )
        for peer, gain in steps
    ]
    for peer in (zero_2, zero_3):
        name = f"peak memory over that of {peer['case']}: {where}"
        listed.append(Figure(name, _memory(ours, peer), MEMORY_SHARE, "times"))
    return listed


def _memory(ours: Row, other: Row) -> float:
    return float(ours["peak_MiB"] / other["peak_MiB"])


def _find(rows: list[Row], case: object) -> Row:
    return next(row for row in rows if row["case"] == str(case))
