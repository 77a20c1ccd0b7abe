"""The tables of a page, as HTML."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from zeropp.report.lines import counted
from zeropp.report.run import Run, moment

_GIB, _MIB = 2**30, 2**20
_NONE = "-"
_SHORT = 24  # characters of a cell


def summary(runs: Sequence[Run], data: Mapping[str, Any], now: float) -> str:
    """A row a run: where it stands, and its figures."""
    head = (
        *("run", "state", "steps", "loss", "validation", "tokens/s, median", "hours"),
        *("bubble, measured", "predicted", "memory, GiB", "MFU"),
    )
    rows = []
    for run, drawn in zip(runs, data["runs"], strict=True):
        swatch = f'<span class="swatch" style="background:{drawn["colour"]}"></span>'
        rows.append([swatch + escape(run.name), escape(run.state(now)), *map(escape, _of(run))])
    return _table(head, rows)


def _of(run: Run) -> Iterator[str]:
    if not run.steps:
        yield from (_NONE,) * 9
        return
    last, wanted = run.steps[-1], run.wanted
    yield f"{last['step']:,}" + (f" of {wanted:,}" if wanted else "")
    yield _number(last.get("loss"), ".4f")
    yield _number(_last(run, "val_loss"), ".4f")
    yield _number(median(_all(run, "tokens_per_s") or [0.0]), ",.0f")
    yield f"{last['hours']:.2f}"
    yield _number(_last(run, "bubble"), ".1%")
    yield _number(_last(run, "bubble_predicted"), ".1%")
    yield _number(max(_all(run, "memory_gib"), default=None), ".2f")
    yield _number(median(_all(run, "mfu") or [0.0]) or None, ".1%")


def _all(run: Run, name: str) -> list[float]:
    return [one[name] for one in run.steps if isinstance(one.get(name), int | float)]


def _last(run: Run, name: str) -> float | None:
    return next(reversed(_all(run, name)), None)


def memory(runs: Sequence[Run]) -> str:
    """Bytes by category of each rank, and of its prediction where there is one."""
    head = ("run", "rank", "category", "predicted, MiB", "measured, MiB")
    rows = []
    for run in runs:
        known = run.memory.get("predicted") or ()
        found = run.memory.get("measured") or ()
        for rank in range(max(len(known), len(found))):
            before = known[rank] if rank < len(known) else {}
            after = found[rank] if rank < len(found) else {}
            pairs = [(name, before.get(name), after.get(name)) for name in {**before, **after}]
            pairs.append(("sum", sum(before.values()) or None, sum(after.values()) or None))
            rows += [
                [escape(run.name), str(rank), escape(name.replace("_", " ")), *map(_mib, pair)]
                for name, *pair in pairs
            ]
    return _table(head, rows) if rows else ""


def _mib(size: float | None) -> str:
    return _NONE if size is None else f"{size / _MIB:,.1f}"


def plans(runs: Sequence[Run]) -> str:
    """Of each run: the layout, what the planner said, and its predictions against the run."""
    return "".join(f"<h3>{escape(run.name)}</h3>{_plan(run)}" for run in runs)


def _plan(run: Run) -> str:
    layouts = dict.fromkeys(
        f"from step {one.get('step', 0) + 1}: {one['layout']}, {counted(one['ranks'], 'rank')}"
        for one in run.starts
        if "layout" in one and "ranks" in one
    )
    parts = [_list(layouts)] if layouts else []
    predicted, said = (run.plan.get(name, {}) for name in ("predicted", "said"))
    if why := said.get("why"):
        parts.append(f"<p>{escape(str(said.get('family', '')))}, as the planner says:</p>")
        parts.append(_list(map(str, why)))
    else:
        parts.append("<p class=quiet>No planner chose it, or its words were not kept.</p>")
    rows = [*_against(run, predicted)]
    if rows:
        parts.append(_table(("figure", "predicted", "measured"), rows))
    if run.program:
        parts.append(f"<pre tabindex=0>{escape(run.program)}</pre>")
    return "".join(parts)


def _against(run: Run, predicted: Mapping[str, Any]) -> Iterator[list[str]]:
    held = [sum(rank.values()) / _MIB for rank in run.memory.get("measured") or ()]
    steps = _all(run, "step_s")
    measured = {
        "step_s": ("step, ms", 1e3, median(steps) * 1e3 if steps else None),
        "tokens_per_s": ("tokens/s", 1, median(_all(run, "tokens_per_s") or [0.0]) or None),
        "peak_bytes": ("memory of the fullest rank, MiB", 1 / _MIB, max(held, default=None)),
        "bubble_ratio": ("bubble ratio, %", 100, _percent(_last(run, "bubble"))),
        "mfu": ("MFU, %", 100, _percent(_last(run, "mfu"))),
    }
    for name, (label, unit, value) in measured.items():
        if isinstance(predicted.get(name), int | float):
            yield [label, f"{predicted[name] * unit:,.1f}", _number(value, ",.1f")]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def configurations(runs: Sequence[Run]) -> str:
    """What differs between runs, then all of it."""
    flat = [dict(_flat(run.config)) for run in runs]
    names = [*dict.fromkeys(name for one in flat for name in one)]
    head = ("field", *(run.name for run in runs))
    differ = [name for name in names if len({repr(one.get(name)) for one in flat}) > 1]
    whole = _table(head, [_row(name, flat) for name in names])
    if len(runs) == 1:
        return whole if names else "<p class=quiet>config.toml cannot be read.</p>"
    if not differ:
        return f"<p>The runs have the same configuration.</p>{whole}"
    parts = _table(head, [_row(name, flat) for name in differ])
    return f"<h3>What differs</h3>{parts}<h3>All of it</h3>{whole}"


def _row(name: str, flat: Sequence[Mapping[str, Any]]) -> list[str]:
    return [escape(name), *(escape(str(one[name])) if name in one else _NONE for one in flat)]


def _flat(table: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{at}{name}.")
        else:
            yield at + name, value


def environments(runs: Sequence[Run]) -> str:
    """A row a start."""
    head = (
        *("run", "begun", "after step", "layout", "ranks", "hosts", "device", "GiB"),
        *("commit", "versions", "system"),
    )
    rows = [
        [escape(run.name), *(escape(str(one)) for one in _start(start))]
        for run in runs
        for start in run.starts
    ]
    return _table(head, rows) if rows else "<p class=quiet>Nothing was written down of it.</p>"


def _start(start: Mapping[str, Any]) -> Iterator[Any]:
    yield moment(start.get("started", 0.0))
    for name in ("step", "layout", "ranks"):
        yield start.get(name, _NONE)
    yield " ".join(start.get("hosts", ())) or _NONE
    yield start.get("device", _NONE)
    yield _number(start.get("device_gib"), ".0f")
    yield (start.get("commit") or _NONE)[:12]
    yield ", ".join(f"{name} {number}" for name, number in start.get("versions", {}).items())
    yield start.get("system", _NONE)


def checkpoints(runs: Sequence[Run]) -> str:
    """Those that lie in the folders now."""
    rows = [
        [escape(run.name), escape(one.name), f"{one.bytes / _MIB:,.1f}", moment(one.written)]
        for run in runs
        for one in run.checkpoints
    ]
    head = ("run", "checkpoint", "MiB", "written")
    return _table(head, rows) if rows else "<p class=quiet>There are none.</p>"


def warnings(runs: Sequence[Run]) -> str:
    """By run, as they were told."""
    return "".join(
        f"<h3>{escape(run.name)}</h3>"
        + (_list(run.warnings) if run.warnings else "<p class=quiet>There were none.</p>")
        for run in runs
    )


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of cells that are HTML already; the first of a row is its heading."""
    kinds = [_kind([row[column] for row in rows]) for column in range(len(head))]
    cells = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, head, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row" class="short">{row[0]}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _kind(cells: Sequence[str]) -> str:
    """The class of a column: numbers go to the right, and what is short is not wrapped."""
    if cells and all(map(_is_number, cells)):
        return ' class="number"'
    return ' class="short"' if all(len(cell) <= _SHORT for cell in cells) else ""


def _is_number(cell: str) -> bool:
    plain = cell.replace(" of ", "").replace(",", "").replace(".", "").rstrip("%")
    return cell == _NONE or plain.isdecimal()
