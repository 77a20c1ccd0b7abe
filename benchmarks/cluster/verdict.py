"""Where ZeroPP wins on the cluster and where it does not, from the measured rows."""

from collections import defaultdict

from cluster.cases import BREADTH_FIRST, ZERO_2, ZERO_3, Mapping, case_name, rate_name
from support.claim import Figure, Row

GAINS = {case_name(BREADTH_FIRST): 1.30, case_name(ZERO_3): 1.68}  # in throughput
MEMORY = {case_name(ZERO_2): 0.90, case_name(ZERO_3): 0.90}
AS_FAST = 1.01  # less is within what repeated runs differ by


def by_place(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """By case, what was measured side by side."""
    places: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        places[f"{row['mapping']} B={row['B']} {row['rate']}"][row["case"]] = row
    return places


def verdicts(rows: list[Row]) -> list[Row]:
    """For every place, the fastest ZeroPP over each other case, and what it does not win over."""
    return [_verdict(place, found) for place, found in by_place(rows).items()]


def _verdict(place: str, rows: dict[str, Row]) -> Row:
    own = {case: row["step_s"] for case, row in rows.items() if " U=" in case}
    best = min(own, key=lambda case: own[case])
    others = [case for case in rows if case not in own]
    gains = {case: rows[case]["step_s"] / own[best] for case in others}
    memory = {case: rows[best]["peak_MiB"] / rows[case]["peak_MiB"] for case in others}
    missed = {f"throughput over {c}": gains[c] for c in GAINS if gains[c] < GAINS[c]}
    missed |= {f"memory over {c}": memory[c] for c in MEMORY if memory[c] > MEMORY[c]}
    breadth_first = rows[case_name(BREADTH_FIRST)]["step_s"]
    return {
        "verdict": place,
        "fastest_zeropp": best,
        "throughput_over": _rounded(gains),
        "memory_of": _rounded(memory),
        "does_not_win_over": _rounded({c: gain for c, gain in gains.items() if gain < AS_FAST}),
        "claims_missed": _rounded(missed),
        "zeropp_over_breadth_first": _rounded({c: breadth_first / s for c, s in own.items()}),
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


def figures(rows: list[Row], mapping: Mapping, batch: int, rate: float | None) -> list[Figure]:
    """The claims, at one place, of the drained order with a unit of all its micro-batches."""
    found = by_place(rows)[f"{mapping} B={batch} {rate_name(rate)}"]
    ours, where = found[f"zeropp drain U={batch}"], f"shard group {mapping} hosts, B={batch}"
    figures = []
    for peer, gain in GAINS.items():
        name = f"throughput over that of {peer}: {where}, {rate_name(rate)}"
        value = found[peer]["step_s"] / ours["step_s"]
        figures.append(Figure(name, value, gain, "times", at_least=True))
    for peer, share in MEMORY.items():
        name = f"peak memory over that of {peer}: {where}, {rate_name(rate)}"
        figures.append(Figure(name, ours["peak_MiB"] / found[peer]["peak_MiB"], share, "times"))
    return figures
