"""ZeroPP: pipeline-parallel training with blockwise FSDP (arXiv 2402.03791).

`Plan` and `generate` need no torch; the rest imports it when first asked for.
"""

from typing import TYPE_CHECKING, Any

from zeropp.generate import generate
from zeropp.plan import Plan

if TYPE_CHECKING:
    from zeropp.runtime.mesh import make_mesh
    from zeropp.runtime.pipeline import Pipeline, StepOutput
    from zeropp.runtime.split_rules import split_report


def __getattr__(name: str) -> Any:
    if name in ("Pipeline", "StepOutput"):
        from zeropp.runtime import pipeline

        return getattr(pipeline, name)
    if name == "make_mesh":
        from zeropp.runtime.mesh import make_mesh

        return make_mesh
    if name == "split_report":
        from zeropp.runtime.split_rules import split_report

        return split_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Pipeline", "Plan", "StepOutput", "generate", "make_mesh", "split_report"]
