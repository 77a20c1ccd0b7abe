"""Folders of runs, made without training."""

import json
from pathlib import Path

from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.timeline import Span, Timeline
from zeropp.report.folder import add_start
from zeropp.show import show

CONFIG = '[run]\nsteps = {steps}\nname = "{name}"\n\n[optim]\nlr = {lr}\n'


def action(name: str) -> Action:
    return Action(Kind(name[1]), int(name[0]), int(name[2:]))


def make_run(folder: Path, steps: int = 30, wanted: int | None = None, lr: float = 0.1) -> Path:
    """A folder as the trainer leaves it."""
    folder.mkdir(parents=True)
    text = CONFIG.format(steps=wanted or steps, name=folder.name, lr=lr)
    (folder / "config.toml").write_text(text)
    lines = [
        {
            "step": step,
            "loss": 4.0 + 1.0 / step if step != 7 else None,
            "grad_norm": 1.0,
            "lr": lr,
            "tokens_per_s": 100.0,
            "step_s": 2.0,
            "time": 1e9 + 3.0 * step,
            "memory_gib": 0.5 + step / 1000,
            "mfu": None,
        }
        | ({"val_loss": 5.0, "bubble": 0.2, "idle_peer": 0.2} if step % 10 == 0 else {})
        | ({"bubble_predicted": 0.1} if step % 10 == 0 else {})
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    add_start(folder, {"started": 1e9, "step": 0, "ranks": 2, "layout": "a layout of words"})
    spans = (
        (Span(action("0F0"), 0.0, 2.0), Span(action("0B0"), 6.0, 8.0)),
        (Span(action("1F0"), 2.0, 4.0), Span(action("1B0"), 4.0, 6.0)),
    )
    timelines = [
        Timeline(name, Placement(Shape.LOOP, 2, 1), spans, "ms")
        for name in ("predicted", "measured")
    ]
    show(timelines, folder / "timeline.json")
    held = [{"parameters": 2**20, "everything_else": 2**21}] * 2
    (folder / "memory.json").write_text(json.dumps({"predicted": None, "measured": held}))
    (folder / "warnings.txt").write_text("2026-01-01T00:00:00 step 7: <it> is skipped\n")
    (folder / "checkpoints" / "step-30").mkdir(parents=True)
    (folder / "checkpoints" / "step-30" / "file").write_bytes(bytes(2**20))
    return folder
