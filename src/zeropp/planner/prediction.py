"""What a plan is predicted to take: one simulated step, as plain numbers."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from zeropp.ir.action import Kind
from zeropp.simulate import Report


@dataclass(frozen=True)
class Prediction:
    """One step; seconds, bytes and counts.

    Attributes:
        step_s: until the last rank has done its optimizer step.
        floor_s: the makespan that no schedule of the placement can beat, without collectives.
        compute_s: for the slowest rank, the time in which it computes.
        idle_s: mean over the ranks, idle time by cause.
        peak_bytes: of the fullest rank.
        memory: for each rank of a pipeline, what its peak consists of.
        gathers: for each rank, all-gathers.
        reduces: for each rank, reduce-scatters.
        wire_bytes: for each rank, what it gathers, reduces and sends.
        extended: whether a shorter batch was simulated and extended by its last units, which is
            exact where the schedule is periodic.
    """

    step_s: float
    floor_s: float
    compute_s: float
    idle_s: dict[str, float]
    peak_bytes: float
    memory: tuple[dict[str, float], ...]
    gathers: tuple[float, ...]
    reduces: tuple[float, ...]
    wire_bytes: tuple[float, ...]
    extended: bool = False

    @classmethod
    def of(cls, report: Report) -> "Prediction":
        """From a simulation."""
        ranks = range(report.program.placement.pp_size)
        return cls(
            step_s=report.makespan,
            floor_s=report.floor,
            compute_s=max(map(report.timeline.busy, ranks)),
            idle_s={cause: time / len(ranks) for cause, time in report.idle.items()},
            peak_bytes=max(memory.peak for memory in report.memory),
            memory=tuple({str(k): v for k, v in m.at_peak.items()} for m in report.memory),
            gathers=tuple(map(float, report.program.count(Kind.UNSHARD))),
            reduces=tuple(map(float, report.program.count(Kind.REDUCE))),
            wire_bytes=report.wire,
        )

    @property
    def bubble_ratio(self) -> float:
        """Idle time of the compute streams / (P x step)."""
        return sum(self.idle_s.values()) / self.step_s

    def extend(self, longer: "Prediction", times: float) -> "Prediction":
        """`longer` with `times` more of what it has beyond this one; memory stays `longer`'s."""
        changed: dict[str, Any] = {"extended": True}
        for field in fields(self):
            if field.name not in ("peak_bytes", "memory", "extended"):
                short, more = getattr(self, field.name), getattr(longer, field.name)
                changed[field.name] = _extended(short, more, times)
        return replace(longer, **changed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and TOML."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return listed | {"bubble_ratio": self.bubble_ratio}


def _extended(short: Any, longer: Any, times: float) -> Any:
    if isinstance(longer, dict):
        return {key: _extended(short[key], longer[key], times) for key in longer}
    if isinstance(longer, tuple):
        return tuple(_extended(a, b, times) for a, b in zip(short, longer, strict=True))
    return max(0.0, longer + (longer - short) * times)


def shorter_batches(num_stages: int, batch: int, period: int, most: int) -> tuple[int, int] | None:
    """Two batches, a period apart, that stand for a batch of too many actions; None: simulate it.

    Args:
        num_stages: P x V.
        batch: B.
        period: micro-batches after which the schedule repeats.
        most: compute actions that are simulated at once.
    """
    if 3 * num_stages * batch <= most:
        return None
    periods = max(3, math.ceil(most / (3 * num_stages * period)))
    longer = batch % period + periods * period
    return (longer - period, longer) if longer < batch else None
