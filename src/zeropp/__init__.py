"""ZeroPP: pipeline-parallel training with blockwise FSDP (arXiv 2402.03791).

`Plan` and `generate` need no torch; the rest imports it when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zeropp.generate import generate
from zeropp.plan import Plan

if TYPE_CHECKING:
    from zeropp.measure.adapt import Adapter
    from zeropp.measure.trace import Trace
    from zeropp.runtime.auxiliary import AuxiliaryLoss
    from zeropp.runtime.mesh import make_mesh
    from zeropp.runtime.pipeline import Pipeline, StepOutput
    from zeropp.runtime.split_rules import split_report


_HOMES = {
    "Adapter": "measure.adapt",
    "AuxiliaryLoss": "runtime.auxiliary",
    "Pipeline": "runtime.pipeline",
    "StepOutput": "runtime.pipeline",
    "Trace": "measure.trace",
    "make_mesh": "runtime.mesh",
    "split_report": "runtime.split_rules",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"zeropp.{_HOMES[name]}"), name)


__all__ = [
    "Adapter",
    "AuxiliaryLoss",
    "Pipeline",
    "Plan",
    "StepOutput",
    "Trace",
    "generate",
    "make_mesh",
    "split_report",
]
