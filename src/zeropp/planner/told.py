"""What is told of an answer: its figures as plain data, and as rows to read."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from zeropp.planner.hardware import GIB
from zeropp.planner.planner import Answer

_TB = 1e12


def as_dict(answer: Answer) -> dict[str, Any]:
    """For JSON."""
    plan, layout = answer.plan, answer.best.priced.layout
    return {
        "family": answer.family,
        "plan": {
            **{name: value for name, value in asdict(plan).items() if name != "costs"},
            "micro_batch_size": answer.micro_batch_size,
            "placement": str(layout.placement.shape),
        },
        "predicted": answer.predicted(),
        "rivals": [
            {"family": rival.name, "step_s": rival.best.step_s if rival.best else None}
            for rival in answer.rivals
        ],
        "reasons": list(answer.reasons),
        "assumptions": list(answer.problem.profile.assumptions),
        "searched": {"layouts": answer.counts.layouts, "simulated": answer.counts.simulated},
    }


def rows_of(answer: Answer) -> list[tuple[str, str]]:
    """The layout and its figures, each with its name."""
    return [*_layout_rows(answer), *_figure_rows(answer)]


def _layout_rows(answer: Answer) -> list[tuple[str, str]]:
    plan, shape = answer.plan, answer.best.priced.layout.placement.shape
    mesh = f"{plan.pp_size} x {plan.dp_replicate} x {plan.dp_shard}"
    return [
        ("pp_size x dp_replicate x dp_shard", mesh),
        ("chunks per rank", f"{plan.num_chunks}, {shape}"),
        ("micro-batches", f"{plan.num_microbatches} of {answer.micro_batch_size} sequences"),
        ("schedule", str(plan.order)),
        ("gathered and reduced per", f"{plan.shard}, {plan.max_resident} resident"),
        ("recompute", plan.recompute),
        ("blocks per stage", " ".join(map(str, plan.split or ()))),
    ]


def _figure_rows(answer: Answer) -> list[tuple[str, str]]:
    found = answer.prediction
    rows = [
        ("step", f"{found.step_s:.4g} s"),
        ("tokens/s", f"{answer.tokens_per_s:,.0f}"),
        ("bubble ratio = idle / (P x step)", f"{found.bubble_ratio:.1%}"),
        ("peak memory per rank, GiB", _each(sum(rank.values()) / GIB for rank in found.memory)),
        ("gathers per rank", _each(found.gathers)),
        ("reductions per rank", _each(found.reduces)),
        ("gathered, reduced, sent per rank, TB", _each(wire / _TB for wire in found.wire_bytes)),
    ]
    return rows if answer.mfu is None else [*rows, ("MFU", f"{answer.mfu:.1%}")]


def _each(values: Iterable[float]) -> str:
    """One number if all ranks agree, the least and the most if not."""
    texts = [f"{value:.3g}" for value in sorted(values)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"
