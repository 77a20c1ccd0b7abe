"""ZeroPP: pipeline-parallel training with blockwise FSDP (arXiv 2402.03791).

Everything is imported when it is first asked for: `Plan` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeropp.build import pipeline, program_of
    from zeropp.matrices import WholeMatrices
    from zeropp.measure.adapt import Adapter
    from zeropp.measure.trace import Trace
    from zeropp.pieces import HeadInPieces, LossInPieces
    from zeropp.plan import Plan
    from zeropp.runtime import (
        AuxiliaryLoss,
        Pipeline,
        StepFailedError,
        StepOutput,
        Whole,
        data_rank,
        data_size,
        make_mesh,
        split_report,
    )

_HOMES = {
    "Adapter": "measure.adapt",
    "AuxiliaryLoss": "runtime",
    "HeadInPieces": "pieces",
    "LossInPieces": "pieces",
    "Pipeline": "runtime",
    "Plan": "plan",
    "StepFailedError": "runtime",
    "StepOutput": "runtime",
    "Trace": "measure.trace",
    "Whole": "runtime",
    "WholeMatrices": "matrices",
    "data_rank": "runtime",
    "data_size": "runtime",
    "make_mesh": "runtime",
    "pipeline": "build",
    "program_of": "build",
    "split_report": "runtime",
}


__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("zeropp")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "Adapter",
    "AuxiliaryLoss",
    "HeadInPieces",
    "LossInPieces",
    "Pipeline",
    "Plan",
    "StepFailedError",
    "StepOutput",
    "Trace",
    "Whole",
    "WholeMatrices",
    "data_rank",
    "data_size",
    "make_mesh",
    "pipeline",
    "program_of",
    "split_report",
]
