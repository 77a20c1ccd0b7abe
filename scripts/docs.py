"""Fill the marked blocks of the pages in docs/ and draw their pictures, or check that they are so.

Run: python scripts/docs.py [--check] [--exactness] [--results FOLDER]

Results of benchmarks that are there (NAME.json, as `make bench` writes them) are published first;
--exactness measures the matrix of exactness. --check writes nothing.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from cogapp import Cog

import measured
import simulated

PAGES = ("performance.md", "schedules.md", "exactness.md", "planning.md")
DOCS, PICTURES = measured.RESULTS.parent, "schedules"


def main() -> int:
    """Write, or check; 1 if a page is not what it would be, or results are not understood."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if files differ")
    parser.add_argument("--exactness", action="store_true", help="measure errors, a few minutes")
    parser.add_argument("--results", type=Path, default=measured.ROOT / "build" / "bench")
    wanted = parser.parse_args()
    if wanted.check:
        failed = different(DOCS) | fill(DOCS, "--check", "--diff")
        return 1 if failed else 0
    try:
        measured.take(wanted.results, DOCS / "performance")
        if wanted.exactness:
            measured.measure_exactness()
    except ValueError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    simulated.draw(DOCS / PICTURES)
    return fill(DOCS, "-r")


def fill(docs: Path, *options: str) -> int:
    """Run the blocks of every page; cog's exit status."""
    blocks = ["-P", "-I", str(Path(__file__).parent), "-p", "import measured, simulated"]
    pages = [str(docs / page) for page in PAGES]
    status: int = Cog().main(["cog", *blocks, "--verbosity=1", *options, *pages])
    return status


def different(docs: Path) -> bool:
    """Whether a picture of a schedule is missing, superfluous or another than would be drawn."""
    with tempfile.TemporaryDirectory() as folder:
        simulated.draw(Path(folder))
        made, there = simulated.shown(Path(folder)), simulated.shown(docs / PICTURES)
    wrong = {name for name in made.keys() | there.keys() if made.get(name) != there.get(name)}
    for name in sorted(wrong):
        print(f"{docs / PICTURES / name} is not as drawn; run scripts/docs.py", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
