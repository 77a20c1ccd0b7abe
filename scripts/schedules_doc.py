"""Write docs/schedules.md and its pictures, or check that they are what would be written.

Run: python scripts/schedules_doc.py [--check] [--docs FOLDER]
"""

import argparse
import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import schedules_refined as refined
from schedules_entries import ADVICE, ENTRIES, LINKS, Entry
from schedules_figures import (
    RESIDENT,
    SIZES,
    TRAFFIC_SIZE,
    RefusedError,
    Row,
    Size,
    Times,
    time_and_memory,
    traffic,
)
from zeropp.cli.main import main as zeropp
from zeropp.costs import Costs, floor
from zeropp.generate import GENERATORS
from zeropp.ir import evaluate
from zeropp.show import show

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = "schedules.md"
PICTURES = "schedules"
PICTURE_SIZE = Size(4, 2, 8)

OPENING = """\
<!-- Written by scripts/schedules_doc.py, which refuses figures that are not so: edit that. -->
# Schedules

P ranks hold V stages each and run B micro-batches per step, `zeropp` in units of U. F is a forward,
B an input-gradient backward, W a weight-gradient backward, BW both in one; a slot is one stage's
activations of one micro-batch, held from F until W ([design.md](design.md)). All figures are
evaluated, as by `zeropp simulate`: equal stages, free transfers, and T_F = T_B = T_W = 1, the times
of one micro-batch through a whole rank (each stage takes a V-th). Nothing here was measured on
hardware. A bubble is the idle time of a rank per step; bubble ratio = idle / (P x makespan).
"""

TIME_AND_MEMORY = (
    "Formulas, and what the simulation gives at (P, V, B) = "
    f"{', '.join(str(tuple(size)) for size in SIZES)}, with V=1 or 2 where the schedule takes no "
    "other. A bubble is the makespan less a rank's work; one marked *span* is idle time between a "
    "rank's own first start and last end, as its paper counts. The ratio always goes by the "
    "makespan. Peaks are those of the worst rank, in micro-batches through a whole rank: V slots."
)
TIME_AND_MEMORY_HEAD = """\
| schedule | V | placement | bubble | source | simulated | bubble ratio, % | peak | simulated |
|---|---|---|---|---|---|---|---|---|
"""
PARAMETER_TRAFFIC = (
    "Gathers (UNSHARD) per rank and step under FSDP, policy `unit`, by how many stages may be "
    f"resident, and reduces; P={TRAFFIC_SIZE.P}, B={TRAFFIC_SIZE.B}, and V={TRAFFIC_SIZE.V} or the "
    "largest that the schedule takes. A range is over ranks; U is B where a schedule has no units. "
    f"Stages of V=1 are {TRAFFIC_SIZE.V} times as large as those of V={TRAFFIC_SIZE.V}: one "
    "resident stage is then all that the rank has."
)
PARAMETER_TRAFFIC_HEAD = f"""\
| schedule | V | {" | ".join(f"{n} resident" for n in RESIDENT)} | formula, 1 resident | reduces |
|---|---|---|---|---|---|---|
"""
ONE_BY_ONE = (
    f"Pictures: P={PICTURE_SIZE.P}, B={PICTURE_SIZE.B}, equal times. Numbers are micro-batches, "
    "lighter boxes the rank's later stage, the dashed line the floor of the placement."
)


def main() -> int:
    """Write, or with --check compare; 1 if the page would not be true or is not what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if files differ")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")
    wanted = parser.parse_args()
    try:
        if wanted.check:
            with tempfile.TemporaryDirectory() as made:
                write(Path(made))
                compare(wanted.docs, Path(made))
        else:
            write(wanted.docs)
    except RefusedError as error:
        print(f"schedules_doc: {error}", file=sys.stderr)
        return 1
    return 0


def write(docs: Path) -> None:
    """The page and its pictures.

    Raises:
        RefusedError: a schedule has no entry, or a figure is not so.
    """
    missing = set(GENERATORS) - {row.name for entry in ENTRIES for row in entry.rows}
    if missing:
        raise RefusedError(f"no entry for {', '.join(sorted(missing))}; add one to ENTRIES")
    text = page()
    (docs / PICTURES).mkdir(exist_ok=True)
    (docs / PAGE).write_text(text, encoding="utf-8")
    for entry in ENTRIES:
        draw(entry, docs / PICTURES / f"{entry.slug}.svg")


def compare(docs: Path, made: Path) -> None:
    """Hold what is in `docs` against what was just made.

    Raises:
        RefusedError: a file is missing, superfluous or different.
    """
    names = [Path(PAGE), *(Path(PICTURES) / f"{entry.slug}.svg" for entry in ENTRIES)]
    there = {path.relative_to(docs) for path in (docs / PICTURES).glob("*")}
    for name in sorted(there - set(names)):
        raise RefusedError(f"{docs / name} is no picture of the page; remove it")
    for name in names:
        if not (docs / name).is_file():
            raise RefusedError(f"{docs / name} is missing; run scripts/schedules_doc.py")
        found, wanted = (folder.joinpath(name).read_text("utf-8") for folder in (docs, made))
        if found != wanted and not (name.suffix == ".svg" and same_picture(found, wanted)):
            raise RefusedError(f"{docs / name} differs; run scripts/schedules_doc.py")


def same_picture(found: str, wanted: str) -> bool:
    """Whether two SVGs are equal but for ids, which are hashes of every last digit.

    Versions of matplotlib place text a little differently: with another version the boxes and the
    text count.
    """
    if _artist(found) != _artist(wanted):
        return _drawn(found) == _drawn(wanted)
    return _without_ids(found) == _without_ids(wanted)


def _without_ids(svg: str) -> str:
    return re.sub(r"\b[mp][0-9a-f]{10}\b", "id", svg)


def _artist(svg: str) -> list[str]:
    return re.findall(r"<dc:title>(Matplotlib v[^,<]*)", svg)


def _drawn(svg: str) -> tuple[list[tuple[str, str]], list[str]]:
    boxes = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: (#\w+)', svg)
    return boxes, re.findall(r"<text [^>]*>([^<]*)<", svg)


def draw(entry: Entry, path: Path) -> None:
    """The first row's timeline, with the floor."""
    row = entry.rows[0]
    schedule = row.schedule(*PICTURE_SIZE)
    placement = schedule.placement
    costs = Costs.uniform(placement.pp_size, placement.num_chunks)
    timeline = replace(evaluate(schedule, costs.duration), title=row.label)
    show([timeline], path, floor(placement, schedule.num_microbatches, costs))


def page() -> str:
    """The Markdown.

    Raises:
        RefusedError: a figure is not so.
    """
    rows = [row for entry in ENTRIES for row in entry.rows]
    parts = [
        OPENING,
        "## Time and memory\n",
        _wrap(TIME_AND_MEMORY) + "\n",
        TIME_AND_MEMORY_HEAD + "\n".join(map(_time_and_memory_line, rows)) + "\n",
        _wrap(_checked_times(rows)) + "\n",
        "## Parameter traffic\n",
        _wrap(PARAMETER_TRAFFIC) + "\n",
        PARAMETER_TRAFFIC_HEAD + "\n".join(map(_traffic_line, rows)) + "\n",
        "## One by one\n",
        _wrap(ONE_BY_ONE) + "\n",
        *map(_section, ENTRIES),
        "## Refined\n",
        _wrap(refined.TEXT) + "\n",
        refined.HEAD + "\n".join(refined.lines()) + "\n",
        "## Which one?\n",
        "\n".join(_guidance()) + "\n",
        "\n".join(f"[{name}]: {link}" for name, link in LINKS.items()) + "\n",
    ]
    return "\n".join(parts)


def _time_and_memory_line(row: Row) -> str:
    found = [time_and_memory(row, size) for size in SIZES]
    allowed = GENERATORS[row.name].chunks
    cells = (
        row.label,
        "any" if allowed is None else str(max(allowed)),
        str(row.schedule(2, 2, 4).placement.shape),
        f"{row.bubble}{' *span*' if row.own_span else ''}",
        row.source,
        ", ".join(f"{abs(round(f.bubble, 4)):g}" for f in found),
        ", ".join(f"{100 * f.ratio:.1f}" for f in found),
        str(row.peak),
        ", ".join(f"{f.peak:g}" for f in found),
    )
    return f"| {' | '.join(cells)} |"


def _checked_times(rows: list[Row]) -> str:
    """Where the formulas were held against the simulation."""
    groups: dict[tuple[Times, ...], list[str]] = {}
    for row in rows:
        groups.setdefault(row.times, []).append(row.label.partition(", U=")[0])
    parts = [
        f"{', '.join('(' + ', '.join(f'{t:g}' for t in each) + ')' for each in times)}: "
        f"{'; '.join(dict.fromkeys(labels))}"
        for times, labels in groups.items()
    ]
    checked = ". ".join(parts)
    return f"Bubbles hold at these (T_F, T_B, T_W), and B a multiple of P: {checked}."


def _traffic_line(row: Row) -> str:
    found = traffic(row)
    ranges = [f"{low}" if low == high else f"{low}-{high}" for low, high in found.gathers]
    chunks = str(row.chunks(TRAFFIC_SIZE[1]))
    cells = (row.label, chunks, *ranges, str(row.gathers or "-"), str(found.reduces))
    return f"| {' | '.join(cells)} |"


def _section(entry: Entry) -> str:
    text = f"{entry.what} Source: {entry.source}. **Right** {entry.right}"
    label = entry.rows[0].label
    title, _, _ = label.partition(", U=")
    return f"### {title}\n\n{_wrap(text)}\n\n![{label}]({PICTURES}/{entry.slug}.svg)\n"


def _guidance() -> Iterator[str]:
    for advice in ADVICE:
        yield textwrap.indent(_wrap(advice.text, 98), "  ").replace("  ", "- ", 1)
    yield "\n`zeropp simulate` says the same; what it recommends stands behind each command:\n"
    for options, choice in (run for advice in ADVICE for run in advice.runs):
        _require_choice(options, choice)
        yield f"    zeropp simulate {options}  # {choice}"


def _require_choice(options: str, choice: str) -> None:
    """Run the command that an advice rests on.

    Raises:
        RefusedError: it recommends another schedule.
    """
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = zeropp(["simulate", *shlex.split(options), "--json"])
    found = None if status else json.loads(out.getvalue())["recommended"]
    if found != choice:
        raise RefusedError(f"zeropp simulate {options}: recommends {found}, not {choice}")


def _wrap(text: str, width: int = 100) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
