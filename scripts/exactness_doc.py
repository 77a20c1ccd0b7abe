"""Writes docs/exactness.md: every feature in every layout, measured; refuses an error above 1e-5.

Run: python scripts/exactness_doc.py [--check]; --check only says whether the page lists today's
features and layouts.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.exactness import LAYOUTS, B, matrix
from support.features import FEATURES
from support.ranks import run_ranks

PAGE = Path(__file__).parents[1] / "docs" / "exactness.md"
TOLERANCE = 1e-5

HEAD = f"""# Exactness

Largest relative error, |pipeline - plain| / |plain|, of the loss, the auxiliary losses and every
parameter's gradient (of every parameter after the steps, where steps are named) against plain
PyTorch in one process; fp32, gloo, B={B}, one gathered stage per rank. Nothing but the order of
sums differs. None may be above {TOLERANCE:g}. `make test` measures the matrix again
(`tests/runtime/test_exactness.py`); `python scripts/exactness_doc.py` writes this page.

D is dp_shard, or dp_replicate x dp_shard; "-" is a schedule without units. W is deferred in all of
them. bf16 is compared elsewhere (`tests/runtime/test_precision.py`), and its error does not grow
with the number of units.

"""


def header() -> list[str]:
    """Two lines: layouts, and the rule below them."""
    return [
        "| feature | " + " | ".join(map(str, LAYOUTS)) + " |",
        "|---|" + "---|" * len(LAYOUTS),
    ]


def rows(errors: dict[tuple[str, str], float]) -> list[str]:
    """One line for each feature."""
    return [
        f"| {feature.name} | "
        + " | ".join(f"{errors[feature.name, str(layout)]:.1e}" for layout in LAYOUTS)
        + " |"
        for feature in FEATURES
    ]


def listed(page: str) -> tuple[list[str], list[str]]:
    """The table's header, and its features."""
    table = [line for line in page.splitlines() if line.startswith("|")]
    return table[:2], [line.split("|")[1].strip() for line in table[2:]]


def is_current() -> bool:
    """Whether the page lists today's features and layouts."""
    page = PAGE.read_text(encoding="utf-8")
    return listed(page) == (header(), [feature.name for feature in FEATURES])


def measure() -> dict[tuple[str, str], float]:
    """The worst error of any rank, for every feature and layout."""
    worst: dict[tuple[str, str], float] = {}
    for world_size in sorted({layout.world_size for layout in LAYOUTS}):
        for rank in run_ranks(world_size, matrix, world_size, timeout=600):
            for case, error in rank.items():
                worst[case] = max(error, worst.get(case, 0.0))
    return worst


def main() -> int:
    """Measure and write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    if parser.parse_args().check:
        return 0 if is_current() else 1
    errors = measure()
    too_far = {case: error for case, error in errors.items() if not error <= TOLERANCE}
    if too_far:
        print(f"not written; above {TOLERANCE:g}: {too_far}", file=sys.stderr)
        return 1
    text = HEAD + "\n".join([*header(), *rows(errors)])
    PAGE.write_text(f"{text}\n\nWorst of all: {max(errors.values()):.1e}.\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
