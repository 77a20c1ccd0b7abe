"""Blocks of the pages about what was measured: the published results, kept in docs/results.json."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results.json"
sys.path.append(str(ROOT / "benchmarks"))

from support.claim import Figure  # noqa: E402
from support.pictures import DRAWN  # noqa: E402

Result = dict[str, Any]


def results() -> dict[str, Result]:
    """By benchmark: its claim and figures."""
    found: dict[str, Result] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def publish(found: dict[str, Result]) -> None:
    """Keep these instead of the results that have their names, innermost objects on one line."""
    text = json.dumps(results() | found, indent=1)
    text = re.sub(r"\{\s*([^{}]*?)\s*\}", lambda m: "{" + " ".join(m[1].split()) + "}", text)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def take(folder: Path, pictures: Path) -> None:
    """Publish the figures of every NAME.json in `folder`, and draw what has a picture.

    Raises:
        ValueError: a file of no benchmark, or one that is not what a benchmark prints.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        if not (ROOT / "benchmarks" / f"{path.stem}.py").is_file():
            raise ValueError(f"{path}: there is no benchmarks/{path.stem}.py")
        try:
            made = json.loads(path.read_text(encoding="utf-8"))
            found[path.stem] = {"claim": made["claim"], "figures": made["figures"]}
            if path.stem in DRAWN:
                DRAWN[path.stem](made["rows"], pictures / f"{path.stem}.svg")
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not what a benchmark prints: {error!r}") from error
    publish(found)


def measure_exactness() -> None:
    """Publish the worst error of every feature over all layouts and ranks, unless one is above its
    tolerance.
    """
    from support.exactness import GRIDS, measure
    from support.ranks import run_ranks

    worst: dict[str, float] = {}
    for grid in ("features", "features, further"):
        cases = {str(case): case for case in GRIDS[grid]}
        for size in sorted({case.plan.world_size for case in cases.values()}):
            for rank in run_ranks(size, measure, grid, size, timeout=600):
                for name, errors in rank.items():
                    feature = cases[name].feature
                    worst[feature.name] = max(*errors.values(), worst.get(feature.name, 0.0))
                    if not worst[feature.name] <= feature.tolerance:
                        raise ValueError(f"not published: {name}: {errors}")
    publish({"exactness": {"errors": worst}})


def errors() -> None:
    """The worst error of every feature."""
    found = results()["exactness"]["errors"]
    table(["feature", "worst error"], [[name, f"{error:.1e}"] for name, error in found.items()])


def figures_of(name: str) -> list[Figure]:
    """Of a benchmark."""
    fields = ("name", "value", "target", "unit", "at_least")
    return [Figure(*(made[field] for field in fields)) for made in results()[name]["figures"]]


def summary() -> None:
    """How many figures hold, and of which benchmarks some do not."""
    holds = {name: [f.holds for f in figures_of(name)] for name in results() if name != "exactness"}
    every = [verdict for verdicts in holds.values() for verdict in verdicts]
    missed = {name: verdicts.count(False) for name, verdicts in holds.items()}
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    places = {name: name if f"\n## {name}\n" in page else "and-the-others" for name in missed}
    listed = ", ".join(f"{n} of [{name}](#{places[name]})" for name, n in missed.items() if n)
    print(f"**{sum(every)} of {len(every)} figures hold.** Those that do not are {listed}.")


def figures(*names: str) -> None:
    """Every figure of some benchmarks, by target."""
    for name in names:
        groups: dict[str, list[str]] = {}
        for f in figures_of(name):
            target = f"{f.bound}{'' if f.holds else ', **missed**'}"
            groups.setdefault(target, []).append(f"{f.name} **{_shown(f)}**")
        for target, listed in groups.items():
            print(f"- {f'{name}, ' if len(names) > 1 else ''}{target}: {'; '.join(listed)}")


def _shown(figure: Figure) -> str:
    """With as many digits as it takes to see on which side of its target it is."""
    value, target = figure.value, figure.target
    texts = (f"{value:.{digits}g}" for digits in range(4, 17))
    return next(t for t in texts if (float(t) < target) == (value < target))


def grid(name: str) -> None:
    """Figures called `COLUMN: ROW, best of N (M reach it), ...` as a table."""
    cells: dict[str, dict[str, str]] = {}
    for f in figures_of(name):
        match = re.match(r"(.*?): (.*), best of (\d+) \((\d+) reach it\)", f.name)
        if match:
            value = f"**{_shown(f)}**" if f.holds else _shown(f)
            row = cells.setdefault(f"{match[2]}; {f.bound}", {})
            row[match[1]] = f"{value} ({match[4]} of {match[3]})"
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    lines = [[row, *(found.get(c, "-") for c in columns)] for row, found in cells.items()]
    table(["", *columns], lines)


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """Print it as Markdown."""
    every = [head, ["---"] * len(head), *lines]
    print("\n".join(f"| {' | '.join(map(str, line))} |" for line in every))
